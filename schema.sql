-- The whole database of the log, to be read from top to bottom. PostgreSQL 15 or newer, UTF-8.
--
-- Theory, in five sentences.
-- 1. A stream's events are numbered 1, 2, 3 ... under the lock of that stream's row, so the order of versions is the
--    order of commits: a reader that asks for "version > n" never misses one. (A SERIAL is numbered before the commit,
--    so its readers do.)
-- 2. The order over all streams is (tx, position), read only below the oldest transaction that is still open
--    (pg_snapshot_xmin): what is behind such a cursor never changes any more.
-- 3. Events are never changed. The application may only read, and call append_events() or its faster halves, append_new()
--    and append_one().
-- 4. All events of a stream lie in one partition, the one of the stream's birth, so that replay touches one partition
--    and dropping an old partition never cuts a stream in two.
-- 5. Each event carries a hash over itself and the hash of the event before it: `foldstream verify` finds what was changed
--    behind our back. What is folded from the log (states) can be made again from the events, as long as those are there.
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

CREATE TABLE partitions (
    part        integer     PRIMARY KEY,                                   -- its events are in the table events_N
    born_at     timestamptz NOT NULL DEFAULT clock_timestamp(),            -- since when streams were born into it
    dropped_at  timestamptz                                                -- when its events left the log; NULL = here
);
COMMENT ON TABLE partitions IS 'Which parts of the log there are and were. Written by add_events_partition() and `foldstream gc`.';

-- ----------------------------------------------------------------------------------------------------------------- words

-- What a text may be stands in its type, not in a CHECK of its table: a type looks at a value when it is given, a CHECK
-- looks at every column of the row at every change, and is made ready anew for every statement. (One append came to 79 us
-- with such CHECKs and to 45 us without.) Lengths stand outside the patterns, where a counted repetition such as {1,200}
-- would make them eighty times slower.
CREATE DOMAIN category_name AS text COLLATE "C" CHECK (VALUE ~ '^[a-z][a-z0-9_]*$' AND length(VALUE) <= 32);
CREATE DOMAIN stream_id     AS text COLLATE "C" CHECK (VALUE ~ '^[A-Za-z0-9._:-]+$' AND VALUE !~ '^\.\.?$' AND length(VALUE) <= 128);
CREATE DOMAIN event_type    AS text CHECK (VALUE ~ '^[A-Za-z][A-Za-z0-9._:-]*$' AND length(VALUE) <= 50);
CREATE DOMAIN visible_ascii AS text CHECK (VALUE ~ '^[\x21-\x7e]+$' AND length(VALUE) <= 200);
CREATE DOMAIN w3c_trace     AS text CHECK (VALUE ~ '^00-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+$' AND length(VALUE) = 55);
CREATE DOMAIN event_data    AS text CHECK (jsonb_typeof(VALUE::jsonb) = 'object');

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
    category    category_name NOT NULL,                                    -- build ...
    id          stream_id   NOT NULL                                       -- its public id
) WITH (fillfactor = 70);  -- room on each page, so that a new version rewrites the row in place (HOT), no index touched
COMMENT ON TABLE streams IS 'One row a stream. Its lock is the only one that an append takes.';

CREATE UNIQUE INDEX streams_name   ON streams (category, id);              -- from the public name to the row
CREATE INDEX        streams_newest ON streams (category, created_at DESC, sid DESC);  -- list pages: the newest first

-- ---------------------------------------------------------------------------------------------------------------- events

CREATE TABLE events (
    position    bigint      GENERATED ALWAYS AS IDENTITY,                  -- order inside one transaction; never shown to clients
    tx          xid8        NOT NULL DEFAULT pg_current_xact_id(),         -- order of transactions; never below its stream's last
    sid         bigint      NOT NULL,                                      -- its stream (streams.sid)
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),            -- when it happened: the producer's time, else the append's
    version     integer     NOT NULL,                                      -- 1, 2, 3 ... in its stream without holes: the public id
    part        integer     NOT NULL,                                      -- streams.part of its stream
    schema      smallint    NOT NULL DEFAULT 1,                            -- the shape that data has; grows when a category changes it
    type        event_type  NOT NULL,                                      -- task_started ...
    key         visible_ascii,                                             -- idempotency key; NULL = none
    request_id  visible_ascii,                                             -- what caused it, for tracing
    traceparent w3c_trace,                                                 -- the same as W3C Trace Context
    hash        bytea       NOT NULL,                                      -- chained over the stream, see chain()
    data        event_data  NOT NULL,                                      -- one JSON object: the bytes as accepted
    PRIMARY KEY (part, sid, version),                                      -- replay: one range of one partition
    CHECK (version > 0 AND schema > 0),
    CONSTRAINT events_at CHECK (at >= '0001-01-01 00:00Z' AND at < '10000-01-01 00:00Z')         -- what every reader can hold; not infinity
) PARTITION BY LIST (part);
COMMENT ON TABLE events IS 'The log. Append-only: rows come from append_events(), append_new() or append_one() and are never changed.';

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

-- Streams that are born from now on live in a new partition, the answer. An old one leaves as a whole, once its streams are
-- sealed (`foldstream gc`). The new table is filled with rules first and attached then: attaching waits for nobody who
-- reads or appends, making a partition in place would.
CREATE FUNCTION add_events_partition() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_part integer;
BEGIN
    PERFORM FROM meta WHERE one FOR UPDATE;
    SELECT coalesce(max(part), 0) + 1 INTO v_part FROM partitions;
    EXECUTE format('CREATE TABLE events_%s (LIKE events INCLUDING ALL EXCLUDING IDENTITY, CHECK (part = %s))', v_part, v_part);
    EXECUTE format(  -- statement triggers are not inherited, and somebody may name the partition itself
        'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events_%s '
        'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', v_part);
    EXECUTE format('ALTER TABLE events ATTACH PARTITION events_%s FOR VALUES IN (%s)', v_part, v_part);
    INSERT INTO partitions (part) VALUES (v_part);
    UPDATE meta SET birth_part = v_part;
    RETURN v_part;
END $$;
COMMENT ON FUNCTION add_events_partition IS 'Makes the next partition with its guard, for the streams that are born from now on. For the owner.';
SELECT add_events_partition();

-- The chain: hash = sha256(the hash before || event_bytes). Before the first event stands the name of the stream.
CREATE FUNCTION event_bytes(
    p_version integer, p_at timestamptz, p_schema smallint, p_type text, p_key text, p_request_id text, p_traceparent text,
    p_data text
) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT int4send(p_version) || timestamptz_send(p_at) || convert_to(
        concat_ws(E'\n', p_type, p_schema, coalesce(p_key, ''), coalesce(p_request_id, ''), coalesce(p_traceparent, ''), p_data), 'UTF8')
$$;
COMMENT ON FUNCTION event_bytes IS 'Everything that an event says, as the bytes that are hashed: version, microseconds since 2000, then lines of text.';

CREATE FUNCTION chain_link(p_hash bytea, p_before bytea, p_bytes bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN sha256(coalesce(p_hash, p_before) || p_bytes);
END $$;
COMMENT ON FUNCTION chain_link IS 'One link of chain().';

CREATE AGGREGATE chain (p_before bytea, p_bytes bytea) (sfunc = chain_link, stype = bytea);
COMMENT ON AGGREGATE chain (bytea, bytea) IS 'The hash after some events in order. p_before: the hash before the first of them.';

-- ---------------------------------------------------------------------------------------------------------------- append

-- Make the streams that do not exist yet, in one order for everybody (no deadlock); somebody else may be faster.
-- Whoever expects events in a missing stream is wrong already, and must not leave an empty one behind.
-- Locks on streams that exist are taken only afterwards, and in the same order.
-- The lock is the one that the events need anyway, taken before a partition is chosen: whoever detaches one waits for us.
CREATE FUNCTION make_streams(p_category text[], p_id text[], p_expected integer[]) RETURNS void
LANGUAGE sql SET search_path = public, pg_temp AS $$
    LOCK TABLE events IN ROW EXCLUSIVE MODE;
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
--   duplicate  its key was recorded before: all that is told of it is what was recorded that first time.
--   conflict   p_expected was not the version of the stream, which is `head`.
--   reused     its key was recorded before with another type or other data.
--   sealed     the stream is sealed.
--   refused    another event of its append is `reused`.
-- An append of which every event is a duplicate succeeds, whatever p_expected says and though the stream may be sealed.
CREATE FUNCTION append_events(
    p_group integer[], p_category text[], p_id text[], p_expected integer[], p_type text[], p_data text[],
    p_key text[], p_at timestamptz[], p_request_id text[], p_traceparent text[], p_schema integer[]
) RETURNS TABLE (
    ord integer, outcome text, version integer, head integer, at timestamptz, tx xid8, "position" bigint,
    type text, data text, request_id text, traceparent text, schema smallint
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
               k.type AS k_type, k.data AS k_data, k.request_id AS k_request_id, k.traceparent AS k_traceparent,
               k.schema AS k_schema, coalesce(b.hash, convert_to(u.category || '-' || u.id, 'UTF8')) AS before
        FROM unnest(p_group, p_category, p_id, p_expected, p_type, p_data, p_key, p_at, p_request_id, p_traceparent, p_schema)
             WITH ORDINALITY AS u (grp, category, id, expected, type, data, key, at, request_id, traceparent, schema, ord)
        LEFT JOIN LATERAL (SELECT * FROM streams AS s WHERE s.category = u.category AND s.id = u.id OFFSET 0) AS s ON true
        LEFT JOIN LATERAL (SELECT * FROM events AS e WHERE e.part = s.part AND e.sid = s.sid AND e.key = u.key OFFSET 0) AS k
             ON true
        LEFT JOIN LATERAL (SELECT hash FROM events AS e WHERE e.part = s.part AND e.sid = s.sid AND e.version = s.version OFFSET 0)
             AS b ON true
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
               coalesce(j.schema, 1)::smallint AS new_schema,
               CASE WHEN j.outcome = 'appended' THEN nextval('events_position_seq') END AS new_position
        FROM (SELECT * FROM judged ORDER BY sid, ord OFFSET 0) AS j
    ), recorded AS (
        INSERT INTO events (position, tx, sid, at, version, part, schema, type, key, request_id, traceparent, hash, data)
        OVERRIDING SYSTEM VALUE
        SELECT new_position, new_tx, sid, new_at, new_version, part, new_schema, type, key, request_id, traceparent,
               chain(before, event_bytes(new_version, new_at, new_schema, type, key, request_id, traceparent, data))
                   OVER (PARTITION BY sid ORDER BY new_version),
               data
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
           CASE p.outcome WHEN 'duplicate' THEN p.k_request_id END,
           CASE p.outcome WHEN 'duplicate' THEN p.k_traceparent END,
           CASE p.outcome WHEN 'duplicate' THEN p.k_schema END
    FROM placed AS p
    ORDER BY p.ord;
END $$;
COMMENT ON FUNCTION append_events IS 'The way in: records many appends in one commit and tells the outcome of each event.';

-- The same for the common case, in which nothing stands in the way: no key is known, every p_expected is met, no stream is
-- sealed. It looks nothing up: it moves the streams and inserts, for two thirds of the time. If anything is in the way it
-- raises (unique_violation for a key that is known, FS001 for the rest), has done nothing, and append_events tells who.
--
-- The first four arrays have one element a stream, in the order of (category, id): that is the order of the locks.
-- p_count: its events here. p_expected: NULL = any version. The others have one element an event, in the order of
-- (p_stream, p_offset): p_stream is the place of its stream in those arrays, p_offset counts 1, 2, 3 ... in it. Those from
-- p_key on may be NULL as a whole. p_unsure: some of the streams may not exist yet.
--
-- An event's version is its stream's head + p_offset, its tx its stream's; positions come in the order of the events.
-- Versions stay dense whatever the caller says: offsets beyond p_count are not inserted, equal ones break the primary key,
-- and all is refused unless every event was inserted and they are as many as p_count says.
CREATE FUNCTION append_new(
    p_category text[], p_id text[], p_expected integer[], p_count integer[],
    p_stream integer[], p_offset integer[], p_type text[], p_data text[],
    p_key text[], p_at timestamptz[], p_request_id text[], p_traceparent text[], p_schema integer[], p_unsure boolean,
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
    v_sids    bigint[];
    v_parts   integer[];
    v_txs     xid8[];
    v_total   integer;
BEGIN
    IF (1 <= ALL (p_count)) IS NOT TRUE THEN  -- whoever may append may call this, too, and must not move a stream back
        RAISE EXCEPTION 'each p_count is at least 1' USING ERRCODE = 'FS001';
    END IF;
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
        RETURNING u.ord, u.n, s.sid, s.part, s.tx, s.version - u.n AS head
    )
    SELECT array_agg(m.sid ORDER BY m.ord), array_agg(m.part ORDER BY m.ord), array_agg(m.tx ORDER BY m.ord),
           array_agg(m.head ORDER BY m.ord), array_agg(m.tx::text::bigint ORDER BY m.ord), sum(m.n)
    INTO v_sids, v_parts, v_txs, heads, txs, v_total
    FROM moved AS m;
    IF cardinality(v_sids) IS DISTINCT FROM cardinality(p_id) THEN
        RAISE EXCEPTION 'something is in the way of these appends' USING ERRCODE = 'FS001';
    END IF;
    now := clock_timestamp();

    -- A new statement: what its snapshot sees of a stream ends with the event before ours. Only the first one asks for it.
    WITH recorded AS (
        INSERT INTO events (tx, sid, at, version, part, schema, type, key, request_id, traceparent, hash, data)
        SELECT v_txs[u.stream], v_sids[u.stream], n.at, n.version, v_parts[u.stream], n.schema, u.type, u.key, u.request_id,
               u.traceparent,
               chain(CASE WHEN u.n = 1 THEN coalesce(
                         (SELECT e.hash FROM events AS e
                          WHERE e.part = v_parts[u.stream] AND e.sid = v_sids[u.stream] AND e.version = heads[u.stream]),
                         convert_to(p_category[u.stream] || '-' || p_id[u.stream], 'UTF8')) ELSE '' END,
                     event_bytes(n.version, n.at, n.schema, u.type, u.key, u.request_id, u.traceparent, u.data))
                   OVER (PARTITION BY u.stream ORDER BY u.n),
               u.data
        FROM unnest(p_stream, p_offset, p_type, p_data, p_key, p_at, p_request_id, p_traceparent, p_schema)
             AS u (stream, n, type, data, key, at, request_id, traceparent, schema)
        CROSS JOIN LATERAL (SELECT heads[u.stream] + u.n AS version, coalesce(u.at, now) AS at,
                                   coalesce(u.schema, 1)::smallint AS schema) AS n
        WHERE u.n <= p_count[u.stream]
        RETURNING position
    )
    SELECT array_agg(r.position) INTO positions FROM recorded AS r;
    IF cardinality(positions) IS DISTINCT FROM cardinality(p_stream)
       OR cardinality(positions) <> v_total THEN
        RAISE EXCEPTION 'p_count and p_offset do not fit together' USING ERRCODE = 'FS001';
    END IF;
END $$;
COMMENT ON FUNCTION append_new IS 'append_events, faster, when nothing stands in the way; raises when something does.';

-- append_new for one event of a stream that exists, for half the time: an idle producer waits for nothing else. The same
-- holds of it. p_expected: NULL = any version.
CREATE FUNCTION append_one(
    p_category text, p_id text, p_expected integer, p_type text, p_data text, p_key text, p_at timestamptz,
    p_request_id text, p_traceparent text, p_schema smallint,
    OUT version integer, OUT tx bigint, OUT "position" bigint, OUT now timestamptz
)
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    v_sid    bigint;
    v_part   integer;
    v_tx     xid8;
    v_at     timestamptz;
    v_hash   bytea;
BEGIN
    UPDATE streams AS s
    SET version = s.version + 1, tx = greatest(s.tx, pg_current_xact_id()), updated_at = clock_timestamp()
    WHERE s.category = p_category AND s.id = p_id
      AND s.sealed_at IS NULL AND (p_expected IS NULL OR p_expected = s.version)
    RETURNING s.sid, s.part, s.tx, s.version INTO v_sid, v_part, v_tx, append_one.version;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'something is in the way of this append' USING ERRCODE = 'FS001';
    END IF;
    now := clock_timestamp();
    v_at := coalesce(p_at, now);
    tx := v_tx::text::bigint;
    SELECT e.hash INTO v_hash FROM events AS e
    WHERE e.part = v_part AND e.sid = v_sid AND e.version = append_one.version - 1;
    -- An assignment is prepared once in a session; inside the INSERT it would be made ready at each call.
    v_hash := sha256(coalesce(v_hash, convert_to(p_category || '-' || p_id, 'UTF8')) || event_bytes(
        append_one.version, v_at, p_schema, p_type, p_key, p_request_id, p_traceparent, p_data));
    INSERT INTO events (tx, sid, at, version, part, schema, type, key, request_id, traceparent, hash, data)
    VALUES (v_tx, v_sid, v_at, append_one.version, v_part, p_schema, p_type, p_key, p_request_id, p_traceparent,
            v_hash, p_data)
    RETURNING events.position INTO append_one.position;
END $$;
COMMENT ON FUNCTION append_one IS 'append_new for one event of a stream that exists.';

-- The SQL door: one event, for any program in any language, inside a transaction of its own:
--   SELECT append_event('build-27', 'status', '{"message": "hello"}');
-- Answers the version; raises when the append is refused. The same p_key again records nothing and answers the first version.
-- Viewers hear of it within a second of the commit. The stream stays locked until that transaction ends: end it soon.
CREATE FUNCTION append_event(
    p_stream text, p_type text, p_data text DEFAULT '{}', p_key text DEFAULT NULL, p_expected integer DEFAULT NULL,
    p_at timestamptz DEFAULT NULL, p_request_id text DEFAULT NULL, p_traceparent text DEFAULT NULL, p_schema integer DEFAULT 1
) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_category text := split_part(p_stream, '-', 1);
    v_done     record;
BEGIN
    IF p_data IS NULL OR octet_length(p_data) > 65536 THEN
        RAISE EXCEPTION 'the data of an event is one JSON object of at most 65536 bytes' USING ERRCODE = 'check_violation';
    END IF;
    SELECT * INTO v_done FROM append_events(
        ARRAY[1], ARRAY[v_category], ARRAY[substr(p_stream, length(v_category) + 2)], ARRAY[p_expected],
        ARRAY[p_type], ARRAY[p_data], ARRAY[p_key], ARRAY[p_at], ARRAY[p_request_id], ARRAY[p_traceparent], ARRAY[p_schema]);
    IF v_done.outcome NOT IN ('appended', 'duplicate') THEN
        RAISE EXCEPTION 'the append to % is refused: %', p_stream, v_done.outcome
            USING DETAIL = format('The stream is at version %s.', v_done.head);
    END IF;
    RETURN v_done.version;
END $$;
COMMENT ON FUNCTION append_event IS 'Appends one event in the transaction of the caller and answers its version.';

-- Close a stream for good: whatever is appended to it from now on is refused. Answers its version, NULL when there is none.
CREATE FUNCTION seal_stream(p_category text, p_id text) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$
    UPDATE streams SET sealed_at = coalesce(sealed_at, clock_timestamp()) WHERE category = p_category AND id = p_id
    RETURNING version
$$;
COMMENT ON FUNCTION seal_stream IS 'Closes a stream for good and answers its version.';

-- -------------------------------------------------------------------------------------------------- what is folded from the log

-- Followers read the log of all streams from a stored cursor on, one process at a time for each name: who holds the lease.
CREATE TABLE followers (
    tx          xid8        NOT NULL DEFAULT '0',                          -- its cursor in the feed: (tx, position)
    position    bigint      NOT NULL DEFAULT 0,                            -- ... as in events
    leased_to   timestamptz NOT NULL DEFAULT '-infinity',                  -- until then nobody else may follow under this name
    moved_at    timestamptz NOT NULL DEFAULT clock_timestamp(),            -- when the cursor was last stored
    name        text        PRIMARY KEY,                                   -- projector, webhooks ...
    owner       text        NOT NULL DEFAULT ''                            -- the process that holds the lease
);
COMMENT ON TABLE followers IS 'How far each follower of the whole log has come, and who follows.';

-- The state of each stream as of some version, for lists and so that a status folds only what came after. Written by the
-- follower `projector`; behind the log by some milliseconds. `foldstream verify --all --repair` makes rows that are missing;
-- of streams whose events have left the log the row is all that is left, and nothing makes it again.
CREATE TABLE states (
    sid         bigint      PRIMARY KEY,                                   -- its stream (streams.sid)
    born_at     timestamptz NOT NULL,                                      -- streams.created_at: the order of lists
    updated_at  timestamptz NOT NULL,                                      -- time of the last event that is folded in
    version     integer     NOT NULL CHECK (version > 0),                  -- folded up to here
    fold        integer     NOT NULL,                                      -- the number of the fold that made it (Category.version)
    category    category_name NOT NULL,                                    -- streams.category
    id          stream_id   NOT NULL,                                      -- streams.id
    status      text        COLLATE "C" NOT NULL,                          -- what lists are filtered by ...
    project     text        COLLATE "C",                                   -- ... NULL = none
    state       jsonb       NOT NULL                                       -- the whole state
) WITH (fillfactor = 70);
COMMENT ON TABLE states IS 'Snapshots: the folded state of each stream. A cache of the log, never a truth.';

CREATE INDEX states_newest  ON states (category, born_at, sid);            -- list pages: all of a category, by time
CREATE INDEX states_status  ON states (category, status, born_at, sid);    -- those in one status
CREATE INDEX states_project ON states (category, project, born_at, sid);   -- those of one project
CREATE INDEX states_both    ON states (category, project, status, born_at, sid);  -- both
CREATE INDEX states_fold    ON states (category, fold, sid);               -- those that another fold made: to be made again

-- Which event has to reach whom, and what became of it.
CREATE TABLE webhook_deliveries (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,      -- of this row
    sid         bigint      NOT NULL,                                      -- the event: its stream ...
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),            -- when the first delivery was tried
    retry_at    timestamptz,                                               -- when the next one is due; NULL = never again
    version     integer     NOT NULL,                                      -- ... and version
    attempts    integer     NOT NULL DEFAULT 0,                            -- retries so far, of at most five
    state       text        NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead'))  -- dead: given up
);
COMMENT ON TABLE webhook_deliveries IS 'One row for each event that a webhook receiver did not take at once.';
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (retry_at) WHERE state = 'pending';  -- the next to be tried

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

CREATE VIEW build_progress AS
    SELECT p.id          AS build_id,         -- the build
           CASE p.status WHEN 'queued' THEN 'unknown' WHEN 'cancelled' THEN 'failed' ELSE p.status END AS status,
           jsonb_path_query_array(p.state, '$.tasks[*].id') AS steps_jsonb,      -- the ids of its steps, in order
           jsonb_path_query_array(p.state, '$.tasks[*] ? (@.status == "completed").id') AS completed_steps,
           p.state ->> 'preview_url' AS preview_url,
           p.state ->> 'error'       AS error_message,
           p.state ->> 'log_url'     AS build_log_url,
           p.updated_at                       -- time of its last event
    FROM states AS p
    WHERE p.category = 'build';
COMMENT ON VIEW build_progress IS 'Where each build stands. Behind the log by the milliseconds that the projector needs.';

CREATE VIEW tasks AS
    SELECT p.id                     AS id,
           p.state ->> 'type'       AS type,
           p.status                 AS current_status,  -- pending, processing, completed, failed
           p.state -> 'result_data' AS result_data,     -- what it gave, and the list of its messages under progress
           p.state ->> 'error'      AS error_message,
           (p.state ->> 'created_at')::timestamptz   AS created_at,
           (p.state ->> 'started_at')::timestamptz   AS started_at,
           (p.state ->> 'completed_at')::timestamptz AS completed_at
    FROM states AS p
    WHERE p.category = 'task';
COMMENT ON VIEW tasks IS 'Where each task stands, with the list of its messages in result_data. Behind the log by milliseconds.';

CREATE VIEW worker_webhook_failures AS
    SELECT d.id,
           s.id             AS build_id,
           e.type           AS event_type,
           jsonb_build_object('buildId', s.id, 'id', e.version, 'type', e.type, 'data', e.data::jsonb, 'timestamp', e.at) AS payload,
           d.attempts,
           d.retry_at,
           d.created_at
    FROM webhook_deliveries AS d
    JOIN streams AS s ON s.sid = d.sid
    JOIN events AS e ON e.part = s.part AND e.sid = s.sid AND e.version = d.version
    WHERE d.state = 'pending';
COMMENT ON VIEW worker_webhook_failures IS 'Deliveries that failed and will be tried again.';

CREATE VIEW webhook_failures AS SELECT * FROM worker_webhook_failures;
COMMENT ON VIEW webhook_failures IS 'The other name of worker_webhook_failures.';

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

REVOKE ALL ON FUNCTION make_streams, append_events, append_new, append_one, append_event, append_build_event, seal_stream, add_events_partition,
    refuse_change FROM PUBLIC;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'foldstream_app') THEN
        GRANT SELECT ON schema_version, meta, partitions, streams, events, project_build_events, build_events, build_progress,
            tasks, webhook_failures, worker_webhook_failures TO foldstream_app;
        GRANT INSERT ON project_build_events, build_events TO foldstream_app;  -- their triggers append
        GRANT SELECT, INSERT, UPDATE ON states TO foldstream_app;
        GRANT SELECT, INSERT, UPDATE, DELETE ON followers, webhook_deliveries TO foldstream_app;
        GRANT EXECUTE ON FUNCTION append_events, append_new, append_one, append_event, append_build_event, seal_stream TO foldstream_app;
    END IF;
END $$;
