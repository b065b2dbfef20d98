// step(cursor, version): the one rule of delivery. It stands here and in streaming/cursor.py; both pass
// tests/vectors/cursor.json.
//
// Pure. A cursor is the id of the last event that was taken. Ids are dense, so what arrives comes next, came before, or
// leaves a hole; a hole is closed from the log, never skipped.

export const NEXT = 'next';
export const STALE = 'stale';
export const GAP = 'gap';

/** What to do with an event: take it (NEXT), drop it (STALE), read the log first (GAP). */
export function step(cursor, version) {
  if (version === cursor + 1) return NEXT;
  return version <= cursor ? STALE : GAP;
}
