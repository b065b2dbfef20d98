// The words of the page: pure functions.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as words from '../../streaming/ui/words.mjs';

const { ago, count, duration, outputLines, plural, status, stepStatus, webAddress } = words;

test('times are said with the precision that matters', () => {
  const said = [0, 400, 9_940, 9_960, 24_000, 59_600, 185_000, 7_800_000, 259_200_000].map(duration);
  assert.deepEqual(said.slice(0, 5), ['< 0.1 s', '0.4 s', '9.9 s', '10 s', '24 s']);
  assert.deepEqual(said.slice(5), ['1 min 00 s', '3 min 05 s', '2 h 10 min', '3 days']);
  assert.deepEqual([-5, 59_000, 61_000, 86_400_000].map(ago), ['just now', '59 s ago', '1 min ago', '1 day ago']);
  assert.deepEqual([count(1204), plural(1, 'event'), plural(2, 'event')], ['1,204', '1 event', '2 events']);
});

test('names that every object has are no states', () => {
  for (const name of ['constructor', '__proto__', 'toString']) {
    assert.equal(status(name).word, 'Waiting');
    assert.equal(stepStatus(name, false).word, 'not started');
  }
});

test('a step that has not begun when its run ends never will', () => {
  assert.equal(stepStatus('pending', true).word, 'not run');
  assert.equal(stepStatus('completed', true).word, 'done');
});

test('output is plain text: no colours, no links, and what was written over is gone', () => {
  const lines = (data) => outputLines({ data });
  assert.deepEqual(lines({ logs: ['\x1b[1;31mred\x1b[0m', ' 10%\r 20%\r'] }), ['red', ' 20%']);
  assert.deepEqual(lines({ logs: ['\x1b]8;;https://example.com\x1b\\here\x1b]8;;\x1b\\'] }), ['here']);
  assert.deepEqual(lines({ logs: ['b'], dropped: 2 }), ['… 2 lines left out', 'b']);
  assert.deepEqual(lines({ line: 'one\ntwo' }), ['one', 'two']);
  assert.deepEqual(lines({}), []);
});

test('only addresses of the web are links', () => {
  assert.equal(webAddress('https://example.com').href, 'https://example.com/');
  for (const text of ['javascript:alert(1)', 'data:text/html,x', '/relative', '']) assert.equal(webAddress(text), null);
});
