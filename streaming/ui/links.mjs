// links: the three transports as `follow` wants them, best first: Socket.IO over WebSocket, SSE, polling.
//
// Each opens once and ends by saying `lost`, `closed` or `refused`; coming back is the follower's business. So the
// reconnecting of Socket.IO and of EventSource is not used: there is one place that waits, and one cursor.

import { Problem } from './api.mjs';
import { io } from './vendor/socket.io.esm.min.js';

const PAGE = 1000;
const LONG_POLL = 20; // seconds; the server allows 25
const POLL_GAP = 500; // milliseconds between polls, so that a busy run is read in pages, not event by event
const SILENCE = 45_000; // three heartbeats

/** run: "build-27". api: see api.mjs. */
export function links(run, api) {
  const path = `/v1/runs/${encodeURIComponent(run)}`;
  return [
    { name: 'ws', open: (cursor, ear) => openSocket(run, api, cursor, ear) },
    { name: 'sse', open: (cursor, ear) => openEventSource(path, api, cursor, ear) },
    { name: 'polling', open: (cursor, ear) => openPolling(path, api, cursor, ear) },
  ];
}

/** A page of the log after the cursor. */
export function reader(run, api) {
  return async (cursor) =>
    (await api.get(`/v1/runs/${encodeURIComponent(run)}/events?lastEventId=${cursor}&limit=${PAGE}`)).events;
}

function openSocket(run, api, cursor, ear) {
  const socket = io({ transports: ['websocket'], reconnection: false, forceNew: true, auth: { token: api.token } });
  const refuse = (problem) =>
    problem.retryable ? ear.lost(problem.detail) : ear.refused(new Problem(problem));
  socket.on('connect', () => {
    socket.emit('subscribe', { run, lastEventId: cursor, token: api.token ?? undefined }, (answer) =>
      answer.ok ? ear.heard(answer) : refuse(answer),
    );
  });
  socket.on('connected', ({ head, epoch, timestamp }) => ear.heard({ head, epoch, at: timestamp }));
  socket.on('update', (event) => ear.events([event]));
  socket.on('reset', ({ lastEventId }) => ear.reset(lastEventId));
  socket.on('closed', ({ lastEventId }) => ear.closed(lastEventId));
  socket.on('problem', refuse);
  socket.on('connect_error', (error) => ear.lost(error.message));
  socket.on('disconnect', (reason) => ear.lost(reason));
  return () => socket.disconnect();
}

function openEventSource(path, api, cursor, ear) {
  const source = new EventSource(api.withToken(`${path}/events?lastEventId=${cursor}`));
  let silence;
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(() => ear.lost('it fell silent'), SILENCE);
  };
  const on = (name, work) =>
    source.addEventListener(name, (frame) => {
      listen();
      work(JSON.parse(frame.data));
    });
  on('message', (event) => ear.events([event]));
  on('connected', ({ head, epoch, timestamp }) => ear.heard({ head, epoch, at: timestamp }));
  on('heartbeat', ({ head, timestamp }) => {
    ear.heard({ head, at: timestamp });
    ear.behind(head);
  });
  on('reset', ({ lastEventId }) => ear.reset(lastEventId));
  on('closed', ({ lastEventId }) => ear.closed(lastEventId));
  on('drain', () => ear.lost('the server is restarting'));
  source.onerror = () => ear.lost('the connection broke');
  return () => {
    clearTimeout(silence);
    source.close();
  };
}

function openPolling(path, api, cursor, ear) {
  const stop = new AbortController();
  const { signal } = stop;
  poll(path, api, cursor, ear, signal).catch((error) => {
    if (signal.aborted) return;
    if (error instanceof Problem && !error.retryable && error.status < 500) ear.refused(error);
    else ear.lost(error.message);
  });
  return () => stop.abort();
}

async function poll(path, api, cursor, ear, signal) {
  for (let wait = 0; !signal.aborted; wait = LONG_POLL) {
    const url = `${path}/events?lastEventId=${cursor}&limit=${PAGE}&wait=${wait}`;
    const page = await api.get(url, { signal, seconds: wait + 10 });
    ear.heard({ epoch: page.epoch, head: page.lastEventId });
    if (page.reset) ear.reset(page.lastEventId);
    ear.events(page.events);
    cursor = page.lastEventId;
    if (page.events.length === PAGE) continue;
    if (cursor > 0 && (await isOver(path, api, cursor, signal))) {
      ear.closed(cursor);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_GAP));
  }
}

/** Polls bring no `closed`: the state says it. */
async function isOver(path, api, cursor, signal) {
  const run = await api.get(path, { signal });
  return run.isTerminal && run.lastEventId <= cursor;
}
