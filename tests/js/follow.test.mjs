// follow and step of the page, without a browser: transports are arguments, timers are node's mock timers.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { mock, test } from 'node:test';

import { backoff, Follow, PATIENCE } from '../../streaming/ui/follow.mjs';
import { step } from '../../streaming/ui/step.mjs';

const VECTORS = JSON.parse(readFileSync(new URL('../vectors/cursor.json', import.meta.url)));

const event = (id) => ({ id, type: 'x', data: {} });
const events = (from, to) => Array.from({ length: to - from + 1 }, (_, index) => event(from + index));
const settled = () => new Promise((resolve) => setImmediate(resolve));

/** A follower over links that do what the test says: ears(name) are those opened so far, the last one first. */
function following({ names = ['ws', 'sse', 'polling'], log = [], cursor = 0 } = {}) {
  const opened = [];
  const taken = [];
  const states = [];
  let resets = 0;
  const links = names.map((name) => ({
    name,
    open(from, ear) {
      const link = { name, from, ear, closed: false };
      opened.unshift(link);
      return () => (link.closed = true);
    },
  }));
  const follow = new Follow({
    links,
    cursor,
    random: () => 0.5,
    read: async (after) => log.filter(({ id }) => id > after).slice(0, 3),
    on: {
      events: (list) => taken.push(...list.map(({ id }) => id)),
      head: () => {},
      clock: () => {},
      reset: () => (resets += 1),
      state: (state) => states.push(state),
    },
  });
  follow.start();
  return { follow, opened, taken, states, resets: () => resets, phase: () => states.at(-1).phase };
}

test('the step rule is the one of the vectors', () => {
  for (const { cursor, version, step: wanted } of VECTORS) assert.equal(step(cursor, version), wanted);
});

test('waiting times are jittered over their whole range and bounded', () => {
  assert.equal(backoff(1, 0), 0);
  assert.equal(backoff(1, 0.5), 500);
  assert.equal(backoff(3, 0.5), 2_000);
  assert.equal(backoff(1_000, 1), 15_000);
});

test('each event is taken once and in order, whatever comes twice', () => {
  const { opened, taken } = following();
  opened[0].ear.events(events(1, 3));
  opened[0].ear.events(events(2, 4));
  opened[0].ear.events([event(4), event(5)]);
  assert.deepEqual(taken, [1, 2, 3, 4, 5]);
});

test('a hole is closed from the log', async () => {
  const { opened, taken } = following({ log: events(1, 9) });
  opened[0].ear.events([event(1)]);
  opened[0].ear.events([event(9)]);
  await settled();
  assert.deepEqual(taken, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('the end waits for the events that are still missing', async () => {
  const { opened, taken, phase } = following({ log: events(1, 12) });
  opened[0].ear.events(events(1, 5));
  opened[0].ear.closed(12);
  assert.equal(phase(), 'live');
  await settled();
  assert.deepEqual(taken, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  assert.equal(phase(), 'closed');
  assert.ok(opened[0].closed);
});

test('a transport that says nothing gives way to the next one, one that fails at once as well', () => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  try {
    const { opened, states } = following();
    mock.timers.tick(PATIENCE - 1);
    assert.equal(opened[0].name, 'ws');
    mock.timers.tick(1);
    assert.equal(opened[0].name, 'sse');
    assert.ok(opened[1].closed);
    opened[0].ear.lost('refused');
    assert.equal(opened[0].name, 'polling');
    opened[0].ear.heard({ head: 0 });
    assert.deepEqual([states.at(-1).phase, states.at(-1).transport], ['live', 'polling']);
    assert.match(states.at(-1).why, /sse: refused/);
  } finally {
    mock.timers.reset();
  }
});

test('after a cut it comes back the same way, from its cursor', () => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  try {
    const { opened, states } = following();
    opened[0].ear.events(events(1, 7));
    opened[0].ear.lost('cut');
    assert.deepEqual([states.at(-1).phase, states.at(-1).attempt], ['waiting', 1]);
    mock.timers.tick(backoff(1, 0.5));
    assert.deepEqual([opened[0].name, opened[0].from, opened.length], ['ws', 7, 2]);
  } finally {
    mock.timers.reset();
  }
});

test('"retry now" does not wait, and never opens twice', () => {
  const { follow, opened } = following();
  opened[0].ear.events(events(1, 2));
  opened[0].ear.lost('cut');
  follow.retry();
  follow.retry();
  assert.equal(opened.length, 2);
  follow.stop();
});

test('what a link says after it was given up changes nothing', () => {
  const { opened, taken, follow } = following();
  const [first] = opened;
  first.ear.events([event(1)]);
  first.ear.lost('cut');
  first.ear.events([event(2)]);
  first.ear.closed(2);
  assert.deepEqual(taken, [1]);
  follow.stop();
});

test('a lesser transport gives way when the best one gets through again', () => {
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  try {
    const { opened, states, taken } = following();
    opened[0].ear.lost('blocked');
    const [sse] = opened;
    sse.ear.events(events(1, 3));
    mock.timers.tick(30_000);
    const [socket] = opened;
    assert.equal(socket.name, 'ws');
    sse.ear.events([event(4)]);
    assert.ok(!sse.closed);
    socket.ear.events([event(4), event(5)]);
    assert.ok(sse.closed);
    assert.deepEqual([states.at(-1).phase, states.at(-1).transport], ['live', 'ws']);
    assert.deepEqual(taken, [1, 2, 3, 4, 5]);
  } finally {
    mock.timers.reset();
  }
});

test('a log that begins anew is read from its beginning', () => {
  const { opened, taken, resets } = following();
  opened[0].ear.heard({ epoch: 'one', head: 2 });
  opened[0].ear.events(events(1, 2));
  opened[0].ear.heard({ epoch: 'two', head: 1 });
  assert.equal(resets(), 1);
  assert.deepEqual([opened[0].from, opened.length], [0, 2]);
  opened[0].ear.events([event(1)]);
  assert.deepEqual(taken, [1, 2, 1]);
});

test('a log that begins later than the cursor is read from there, to its end', async () => {
  const { opened, taken, resets, phase } = following();
  opened[0].ear.heard({ epoch: 'one', head: 4 });
  opened[0].ear.reset(3);
  opened[0].ear.events([event(4)]);
  opened[0].ear.closed(4);
  await settled();
  assert.deepEqual([taken, resets(), phase()], [[4], 1, 'closed']);
});

test('no access is an end, not a reason to try again', () => {
  const { opened, states } = following();
  opened[0].ear.refused(new Error('this needs a token'));
  assert.equal(states.at(-1).phase, 'refused');
  assert.equal(opened.length, 1);
});
