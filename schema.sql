-- The whole database of the log, to be read from top to bottom. PostgreSQL 15 or newer, UTF-8.
--
-- Theory, in four sentences.
-- 1. A stream's events are numbered 1, 2, 3 ... under the lock of that stream's row, so the order of versions is the
--    order of commits: a reader that asks for "version > n" never misses one. (A SERIAL is numbered before the commit,
--    so its readers do.)
-- 2. The order over all streams is (tx, position), read only below the oldest transaction that is still open
--    (pg_snapshot_xmin): what is behind such a cursor never changes any more.
-- 3. Events are never changed. The application may only read, and call append_events() or its faster half append_new().
-- 4. All events of a stream lie in one partition, the one of the stream's birth, so that replay touches one partition
--    and dropping an old partition never cuts a stream in two.
--
-- `foldstream migrate` loads it into an empty database; an older one gets eventstore/migrations/ instead.

SET search_path = public;

-- ------------------------------------------------------------------------------------------------ what this database is

CREATE TABLE schema_version (
    name        text        PRIMARY KEY,                 -- 'schema.sql', or the file name of a numbered migration
    checksum    text        NOT NULL,                    -- SHA-256 of that file, hex: an applied migration must not change
    applied_at  timestamptz NOT NULL DEFAULT now()       -- when it was applied, or found to be contained in schema.sql
);
COMMENT ON TABLE schema_version IS 'Which files made this database what it is. Written by `foldstream migrate` only.';

CREATE TABLE meta (
    one         boolean     PRIMARY KEY DEFAULT true CHECK (one),          -- always true: this table has one row
    epoch       uuid        NOT NULL DEFAULT gen_random_uuid(),            -- the life of this log; another epoch = start again
    birth_part  integer     NOT NULL DEFAULT 1,                            -- the partition of streams that are born now
    created_at  timestamptz NOT NULL DEFAULT now()                         -- when this database was made
);
COMMENT ON TABLE meta IS 'One row about this log as a whole.';
INSERT INTO meta DEFAULT VALUES;

-- --------------------------------------------------------------------------------------------------------------- streams

CREATE TABLE streams (
    sid         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,      -- short name inside the database; grows with birth
    tx          xid8        NOT NULL DEFAULT '0',                          -- the largest tx of its events, see append_events
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),            -- when the stream was born
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),            -- when it was last appended to
    sealed_at   timestamptz,                                               -- closed for good since; NULL = open
    version     integer     NOT NULL DEFAULT 0 CHECK (version >= 0),       -- version of the last event; the row's lock gives it
    floor       integer     NOT NULL DEFAULT 0 CHECK (floor <= version),   -- events up to here have left the log (0 = none)
    part        integer     NOT NULL,                                      -- the partition that holds all its events
    category    text        COLLATE "C" NOT NULL CHECK (category ~ '^[a-z][a-z0-9_]*$' AND length(category) <= 32),  -- build ...
    id          text        COLLATE "C" NOT NULL CHECK (id ~ '^[A-Za-z0-9._:-]+$' AND length(id) <= 128)  -- its public id
) WITH (fillfactor = 70);  -- room on each page, so that a new version rewrites the row in place (HOT), no index touched
COMMENT ON TABLE streams IS 'One row a stream. Its lock is the only one that an append takes.';

CREATE UNIQUE INDEX streams_name   ON streams (category, id);              -- from the public name to the row
CREATE INDEX        streams_newest ON streams (category, sid DESC);        -- list pages: the newest of a category first

-- ---------------------------------------------------------------------------------------------------------------- events

CREATE TABLE events (
    position    bigint      GENERATED ALWAYS AS IDENTITY,                  -- order inside one transaction; never shown to clients
    tx          xid8        NOT NULL DEFAULT pg_current_xact_id(),         -- order of transactions; never below its stream's last
    sid         bigint      NOT NULL,                                      -- its stream (streams.sid)
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),            -- when it happened: the producer's time, else the append's
    version     integer     NOT NULL CHECK (version > 0),                  -- 1, 2, 3 ... in its stream without holes: the public id
    part        integer     NOT NULL,                                      -- streams.part of its stream
    type        text        NOT NULL CHECK (type ~ '^[A-Za-z][A-Za-z0-9._:-]*$' AND length(type) <= 50),  -- task_started ...
    key         text        CHECK (key ~ '^[\x21-\x7e]+$' AND length(key) <= 200),       -- idempotency key; NULL = none
    request_id  text        CHECK (request_id ~ '^[\x21-\x7e]+$' AND length(request_id) <= 200),  -- what caused it, for tracing
    data        text        NOT NULL CHECK (jsonb_typeof(data::jsonb) = 'object'),  -- one JSON object: the bytes as accepted
    PRIMARY KEY (part, sid, version)                                       -- replay: one range of one partition
) PARTITION BY LIST (part);
-- (Lengths stand outside the patterns above: a counted repetition such as {1,200} made that check eighty times slower.)
COMMENT ON TABLE events IS 'The log. Append-only: rows come from append_events() or append_new() and are never changed.';

CREATE UNIQUE INDEX events_key  ON events (part, sid, key) WHERE key IS NOT NULL;  -- a key is recorded once in its stream
CREATE INDEX        events_feed ON events (tx, position);                          -- read_all: followers of every stream

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Append an event that says what has changed.';
END $$;
COMMENT ON FUNCTION refuse_change IS 'Keeps everybody from changing events, the owner included.';

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A new partition is one call; then meta.birth_part is set to its number, and streams born from then on live in it. An old
-- one leaves by ALTER TABLE events DETACH PARTITION once its streams are sealed and exported.
CREATE FUNCTION add_events_partition(p_part integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TABLE events_%s PARTITION OF events FOR VALUES IN (%s)', p_part, p_part);
    EXECUTE format(  -- statement triggers are not inherited, and somebody may name the partition itself
        'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events_%s '
        'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', p_part);
END $$;
COMMENT ON FUNCTION add_events_partition IS 'Makes the partition events_N with its guard. For the owner.';
SELECT add_events_partition(1);

-- ---------------------------------------------------------------------------------------------------------------- append

-- Make the streams that do not exist yet, in one order for everybody (no deadlock); somebody else may be faster.
-- Whoever expects events in a missing stream is wrong already, and must not leave an empty one behind.
-- Locks on streams that exist are taken only afterwards, and in the same order.
CREATE FUNCTION make_streams(p_category text[], p_id text[], p_expected integer[]) RETURNS void
LANGUAGE sql SET search_path = public, pg_temp AS $$
    INSERT INTO streams (category, id, part)
    SELECT n.category, n.id, m.birth_part
    FROM (SELECT DISTINCT u.category, u.id FROM unnest(p_category, p_id, p_expected) AS u (category, id, expected)
          WHERE coalesce(u.expected, 0) = 0) AS n
    JOIN meta AS m ON m.one
    WHERE NOT EXISTS (SELECT FROM streams AS s WHERE s.category = n.category AND s.id = n.id)
    ORDER BY n.category COLLATE "C", n.id COLLATE "C"
    ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION make_streams IS 'Gives every stream of an append its row.';

-- Many appends, one commit. Each element of the arrays is one event; events with the same p_group are one append, which is
-- recorded as a whole or not at all. An append that is refused refuses nobody else's.
--
-- The caller sees to three things (the store's writer does): all events of a group name one stream; at most one group of a
-- stream has p_expected, and it is that stream's first; no key stands twice for one stream.
--
-- outcome of an event:
--   appended   it is recorded as `version`.
--   duplicate  its key was recorded before: version, at, tx, position, type, data and request_id are those of that first time.
--   conflict   p_expected was not the version of the stream, which is `head`.
--   reused     its key was recorded before with another type or other data.
--   sealed     the stream is sealed.
--   refused    another event of its append is `reused`.
-- An append of which every event is a duplicate succeeds, whatever p_expected says and though the stream may be sealed.
CREATE FUNCTION append_events(
    p_group integer[], p_category text[], p_id text[], p_expected integer[], p_type text[], p_data text[],
    p_key text[], p_at timestamptz[], p_request_id text[]
) RETURNS TABLE (
    ord integer, outcome text, version integer, head integer, at timestamptz, tx xid8, "position" bigint,
    type text, data text, request_id text
)
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp
-- Every look-up below has one right plan: nested loops over index look-ups. These settings leave no other, so the plan that a
-- session made while the tables were small is still the right one when they have grown.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v_sids    bigint[];
    v_missing boolean;
    v_now     timestamptz;
BEGIN
    LOOP
        SELECT array_agg(DISTINCT s.sid) FILTER (WHERE s.sid IS NOT NULL),
               bool_or(s.sid IS NULL AND coalesce(u.expected, 0) = 0)
        INTO v_sids, v_missing
        FROM unnest(p_category, p_id, p_expected) AS u (category, id, expected)
        LEFT JOIN LATERAL (SELECT s.sid FROM streams AS s WHERE s.category = u.category AND s.id = u.id OFFSET 0) AS s ON true;
        EXIT WHEN v_missing IS NOT TRUE;
        PERFORM make_streams(p_category, p_id, p_expected);
    END LOOP;

    -- One order for everybody again. From here on nobody else gives versions in these streams until we commit.
    PERFORM FROM streams AS s WHERE s.sid = ANY (v_sids) ORDER BY s.category, s.id FOR NO KEY UPDATE;
    v_now := clock_timestamp();

    -- A new statement, hence a new snapshot (READ COMMITTED): it sees all that those who held the locks before have committed.
    RETURN QUERY
    WITH given AS MATERIALIZED (  -- what is asked for, beside what is known: the stream, and the event under the same key
        SELECT u.*, s.sid, s.part, coalesce(s.version, 0) AS head, s.tx AS stream_tx, s.sealed_at IS NOT NULL AS sealed,
               k.version IS NOT NULL AS known, k.version AS k_version, k.at AS k_at, k.tx AS k_tx, k.position AS k_position,
               k.type AS k_type, k.data AS k_data, k.request_id AS k_request_id
        FROM unnest(p_group, p_category, p_id, p_expected, p_type, p_data, p_key, p_at, p_request_id)
             WITH ORDINALITY AS u (grp, category, id, expected, type, data, key, at, request_id, ord)
        LEFT JOIN LATERAL (SELECT * FROM streams AS s WHERE s.category = u.category AND s.id = u.id OFFSET 0) AS s ON true
        LEFT JOIN LATERAL (SELECT * FROM events AS e WHERE e.part = s.part AND e.sid = s.sid AND e.key = u.key OFFSET 0) AS k
             ON true
    ), judged AS MATERIALIZED (
        SELECT g.*,
               CASE WHEN g.known AND (g.k_type, g.k_data) IS DISTINCT FROM (g.type, g.data) THEN 'reused'
                    WHEN bool_or(g.known AND (g.k_type, g.k_data) IS DISTINCT FROM (g.type, g.data)) OVER grp THEN 'refused'
                    WHEN bool_and(g.known) OVER grp THEN 'duplicate'
                    WHEN g.sealed THEN 'sealed'
                    WHEN bool_or(g.expected <> g.head) OVER grp THEN 'conflict'
                    WHEN g.known THEN 'duplicate'
                    ELSE 'appended' END AS outcome
        FROM given AS g
        WINDOW grp AS (PARTITION BY g.grp)
    ), placed AS MATERIALIZED (
        -- tx: a transaction may be older than the one that appended to this stream just before it (it waited for the lock).
        -- Taking the larger of the two keeps (tx, position) in the order of versions, and is safe: a reader passes tx only
        -- when no transaction up to tx is open, so this one, which is not younger, has ended as well.
        SELECT j.*, greatest(pg_current_xact_id(), j.stream_tx) AS new_tx, coalesce(j.at, v_now) AS new_at,
               j.head + (count(*) FILTER (WHERE j.outcome = 'appended') OVER (PARTITION BY j.sid ORDER BY j.ord))::int AS new_version,
               CASE WHEN j.outcome = 'appended' THEN nextval('events_position_seq') END AS new_position
        FROM (SELECT * FROM judged ORDER BY sid, ord OFFSET 0) AS j
    ), recorded AS (
        INSERT INTO events (position, tx, sid, at, version, part, type, key, request_id, data)
        OVERRIDING SYSTEM VALUE
        SELECT new_position, new_tx, sid, new_at, new_version, part, type, key, request_id, data
        FROM placed WHERE outcome = 'appended'
    ), moved AS (
        UPDATE streams AS s SET version = p.version, tx = p.tx, updated_at = v_now
        FROM (SELECT sid, max(new_version) AS version, (array_agg(new_tx))[1] AS tx
              FROM placed WHERE outcome = 'appended' GROUP BY sid) AS p
        WHERE s.sid = p.sid
    )
    SELECT p.ord::int, p.outcome,
           CASE p.outcome WHEN 'appended' THEN p.new_version WHEN 'duplicate' THEN p.k_version END,
           p.head,
           CASE p.outcome WHEN 'appended' THEN p.new_at WHEN 'duplicate' THEN p.k_at END,
           CASE p.outcome WHEN 'appended' THEN p.new_tx WHEN 'duplicate' THEN p.k_tx END,
           CASE p.outcome WHEN 'appended' THEN p.new_position WHEN 'duplicate' THEN p.k_position END,
           CASE p.outcome WHEN 'duplicate' THEN p.k_type END,
           CASE p.outcome WHEN 'duplicate' THEN p.k_data END,
           CASE p.outcome WHEN 'duplicate' THEN p.k_request_id END
    FROM placed AS p
    ORDER BY p.ord;
END $$;
COMMENT ON FUNCTION append_events IS 'The way in: records many appends in one commit and tells the outcome of each event.';

-- The same for the common case, in which nothing stands in the way: no key is known, every p_expected is met, no stream is
-- sealed. It looks nothing up: it moves the streams and inserts, for two thirds of the time. If anything is in the way it
-- raises (unique_violation for a key that is known, FS001 for the rest), has done nothing, and append_events tells who.
--
-- The first four arrays have one element a stream, in the order of (category, id): that is the order of the locks.
-- p_count: its events here. p_expected: NULL = any version. The others have one element an event: p_stream is the place
-- of its stream in those arrays, p_offset counts 1, 2, 3 ... in its stream. p_key, p_at and p_request_id may be NULL as a
-- whole. p_unsure: some of the streams may not exist yet.
--
-- An event's version is its stream's head + p_offset, its tx its stream's; positions come in the order of the events.
-- Versions stay dense whatever the caller says: offsets beyond p_count are not inserted, equal ones break the primary key,
-- and all is refused unless every event was inserted and they are as many as p_count says.
CREATE FUNCTION append_new(
    p_category text[], p_id text[], p_expected integer[], p_count integer[],
    p_stream integer[], p_offset integer[], p_type text[], p_data text[],
    p_key text[], p_at timestamptz[], p_request_id text[], p_unsure boolean,
    OUT heads integer[], OUT txs bigint[], OUT positions bigint[], OUT now timestamptz
)
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp
-- One plan, by index, as in append_events; with one exception: planned just after an ANALYZE of a table of a few streams, the
-- UPDATE walks all of streams_name (which has the order of the locks, too) until the next ANALYZE plans it anew.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    v_sids  bigint[];
    v_parts integer[];
    v_txs   xid8[];
BEGIN
    IF p_unsure THEN
        PERFORM make_streams(p_category, p_id, p_expected);
    END IF;

    -- The new version is the lock, too: nobody else gives versions in these streams until we commit. Whoever had to wait
    -- for a row goes on from what the other one has committed. tx: see append_events.
    WITH moved AS (
        UPDATE streams AS s
        SET version = s.version + u.n, tx = greatest(s.tx, pg_current_xact_id()), updated_at = clock_timestamp()
        FROM unnest(p_category, p_id, p_expected, p_count) WITH ORDINALITY AS u (category, id, expected, n, ord)
        WHERE s.category = u.category AND s.id = u.id
          AND s.sealed_at IS NULL AND (u.expected IS NULL OR u.expected = s.version)
        RETURNING u.ord, s.sid, s.part, s.tx, s.version - u.n AS head
    )
    SELECT array_agg(m.sid ORDER BY m.ord), array_agg(m.part ORDER BY m.ord), array_agg(m.tx ORDER BY m.ord),
           array_agg(m.head ORDER BY m.ord), array_agg(m.tx::text::bigint ORDER BY m.ord)
    INTO v_sids, v_parts, v_txs, heads, txs
    FROM moved AS m;
    IF cardinality(v_sids) IS DISTINCT FROM cardinality(p_id) THEN
        RAISE EXCEPTION 'something is in the way of these appends' USING ERRCODE = 'FS001';
    END IF;
    now := clock_timestamp();

    WITH recorded AS (
        INSERT INTO events (tx, sid, at, version, part, type, key, request_id, data)
        SELECT v_txs[u.stream], v_sids[u.stream], coalesce(u.at, now), heads[u.stream] + u.n, v_parts[u.stream],
               u.type, u.key, u.request_id, u.data
        FROM unnest(p_stream, p_offset, p_type, p_data, p_key, p_at, p_request_id)
             AS u (stream, n, type, data, key, at, request_id)
        WHERE u.n <= p_count[u.stream]
        RETURNING position
    )
    SELECT array_agg(r.position) INTO positions FROM recorded AS r;
    IF cardinality(positions) IS DISTINCT FROM cardinality(p_stream)
       OR cardinality(positions) <> (SELECT sum(n) FROM unnest(p_count) AS n) THEN
        RAISE EXCEPTION 'p_count and p_offset do not fit together' USING ERRCODE = 'FS001';
    END IF;
END $$;
COMMENT ON FUNCTION append_new IS 'append_events, faster, when nothing stands in the way; raises when something does.';

-- One event, for any program that appends inside a transaction of its own: SELECT append_event('build-27', 'status', '{}').
-- Answers the version; raises when the append is refused. The stream stays locked until that transaction ends: end it soon.
CREATE FUNCTION append_event(
    p_stream text, p_type text, p_data text, p_key text DEFAULT NULL, p_expected integer DEFAULT NULL
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_category text := split_part(p_stream, '-', 1);
    v_done     record;
BEGIN
    SELECT * INTO v_done FROM append_events(
        ARRAY[1], ARRAY[v_category], ARRAY[substr(p_stream, length(v_category) + 2)], ARRAY[p_expected],
        ARRAY[p_type], ARRAY[p_data], ARRAY[p_key], ARRAY[NULL]::timestamptz[], ARRAY[NULL]::text[]);
    IF v_done.outcome NOT IN ('appended', 'duplicate') THEN
        RAISE EXCEPTION 'the append to % is refused: %', p_stream, v_done.outcome
            USING DETAIL = format('The stream is at version %s.', v_done.head);
    END IF;
    RETURN v_done.version;
END $$;
COMMENT ON FUNCTION append_event IS 'Appends one event in the transaction of the caller and answers its version.';

-- ------------------------------------------------------------------------- the old documents' tables, as views of the log

CREATE VIEW project_build_events AS
    SELECT e.version    AS id,           -- 1, 2, 3 ... per build: lastEventId
           s.id         AS build_id,     -- the build
           e.type       AS event_type,   -- what happened
           e.data::jsonb AS event_data,  -- the event's data
           e.at         AS created_at    -- when it happened
    FROM streams AS s
    JOIN events AS e ON e.part = s.part AND e.sid = s.sid
    WHERE s.category = 'build';
COMMENT ON VIEW project_build_events IS 'Every event of every build. Ask for one build_id: then it is one index range.';

CREATE VIEW build_events AS SELECT * FROM project_build_events;
COMMENT ON VIEW build_events IS 'The other name of project_build_events.';

CREATE FUNCTION append_build_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.id := append_event('build-' || NEW.build_id, NEW.event_type, NEW.event_data::text);
    SELECT b.created_at INTO NEW.created_at FROM build_events AS b WHERE b.build_id = NEW.build_id AND b.id = NEW.id;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION append_build_event IS 'INSERT INTO build_events (build_id, event_type, event_data) ... RETURNING id is an append.';

CREATE TRIGGER append INSTEAD OF INSERT ON project_build_events FOR EACH ROW EXECUTE FUNCTION append_build_event();
CREATE TRIGGER append INSTEAD OF INSERT ON build_events FOR EACH ROW EXECUTE FUNCTION append_build_event();

-- ---------------------------------------------------------------------------------------------------------------- rights

-- foldstream_app is what the application may do: read everything, append, change nothing. The role belongs to the whole
-- server, so it may be there already, or be made by another database at this very moment, or be none of our business.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'foldstream_app') THEN
        CREATE ROLE foldstream_app NOLOGIN;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN
    RAISE NOTICE 'role foldstream_app was not created: %', SQLERRM;
END $$;

REVOKE ALL ON FUNCTION make_streams, append_events, append_new, append_event, append_build_event, add_events_partition, refuse_change FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'foldstream_app') THEN
        GRANT SELECT ON schema_version, meta, streams, events, project_build_events, build_events TO foldstream_app;
        GRANT INSERT ON project_build_events, build_events TO foldstream_app;  -- their triggers append
        GRANT EXECUTE ON FUNCTION append_events, append_new, append_event, append_build_event TO foldstream_app;
    END IF;
END $$;
