// run: the page of one run, live. The events come from the stream (`follow`); what they mean comes from the server,
// which folds them: GET /v1/runs/{id}, read again after events, at most twice a second. So there is no second fold here
// that could disagree with the first.

import { ErrorCard, PreviewCard, failure } from './cards.mjs';
import { Connection } from './connection.mjs';
import { copyButton, drawn, h, paced } from './dom.mjs';
import { eventRow, lineRow } from './events.mjs';
import { Follow } from './follow.mjs';
import { links, reader } from './links.mjs';
import { LongList } from './list.mjs';
import { Steps } from './steps.mjs';
import { Summary } from './summary.mjs';
import { Tabs } from './tabs.mjs';
import { count, duration, isFailure, outputLines, status } from './words.mjs';

const STATE_EVERY = 500;
const STATE_AGAIN = 2_000; // after an answer that did not come
const HEAD_PATIENCE = 1_000;
const QUIET_AFTER = 15_000;

/** Show run `id` in `root` until the returned function is called. */
export function runPage(root, { id, api, corner, announcer }) {
  const page = new RunPage(root, { id, api, corner, announcer });
  page.start();
  return () => page.stop();
}

class RunPage {
  #id;
  #api;
  #announcer;
  #root;
  #follow;
  #run = null; // the last answer of the server
  #head = null; // the last event there is, as far as anybody said
  #first = null;
  #last = null;
  #advice = '';
  #skew = 0;
  #revealed = '';
  #isCommand = false;
  #wasUnknown = false;
  #lastArrival = 0;
  #ended = false;
  #stopped = new AbortController();
  #ticking = null;
  #late = null;
  #recount = drawn(() => this.#count());
  #refresh = paced(STATE_EVERY, () => this.#readState());

  constructor(root, { id, api, corner, announcer }) {
    this.#id = id;
    this.#api = api;
    this.#root = root;
    this.#announcer = announcer;
    this.#follow = new Follow({
      links: links(`build-${id}`, api),
      read: reader(`build-${id}`, api),
      on: {
        events: (events) => this.#take(events),
        head: (head) => this.#heads(head),
        clock: (iso) => (this.#skew = Date.parse(iso) - Date.now()),
        reset: () => this.#reset(),
        state: (state) => this.#connected(state),
      },
    });
    this.connection = new Connection({ corner, announcer, retry: () => this.#follow.retry() });
    this.summary = new Summary(id);
    this.steps = new Steps();
    this.preview = new PreviewCard();
    this.fault = new ErrorCard();
    this.events = new LongList({ row: (event) => eventRow(event, this.#first), label: 'Events', style: 'events' });
    this.output = new LongList({ row: lineRow, label: 'Output', style: 'output' });
    this.tabs = new Tabs([
      { key: 'events', label: 'Events', list: this.events },
      { key: 'output', label: 'Output', list: this.output },
    ]);
    this.tabs.offer('output', false);
    this.unknown = unknownCard(id);
    this.refusal = h('section', { class: 'card hero', hidden: true });
    this.body = h('div', { class: 'run', 'data-state': 'loading' });
    this.body.append(
      this.connection.element,
      this.refusal,
      this.unknown,
      this.summary.element,
      this.fault.element,
      this.preview.element,
      h('div', { class: 'columns' }, this.steps.element, this.tabs.element),
    );
  }

  start() {
    this.#root.replaceChildren(this.body);
    document.title = `${this.#id} · foldstream`;
    const { signal } = this.#stopped;
    addEventListener('online', () => this.#follow.retry(), { signal });
    document.addEventListener('visibilitychange', () => document.hidden || this.#follow.retry(), { signal });
    addEventListener('hashchange', () => this.#revealHash(), { signal });
    this.#ticking = setInterval(() => this.#tick(), 500);
    this.#follow.start();
    // The stream says at once whether there is anything to read; where it is slow to come, the state need not wait.
    this.#late = setTimeout(() => this.#peek(), HEAD_PATIENCE);
  }

  stop() {
    this.#ended = true;
    this.#stopped.abort();
    clearInterval(this.#ticking);
    clearTimeout(this.#late);
    this.#follow.stop();
  }

  #take(events) {
    this.#first ??= events[0];
    this.#last = events.at(-1);
    this.#lastArrival = performance.now();
    this.events.push(events);
    const lines = [];
    for (const event of events) {
      for (const text of outputLines(event)) lines.push({ text, id: event.id });
      if (isFailure(event.type)) this.#advice = String(event.data.suggestedAction ?? '');
    }
    if (lines.length) this.output.push(lines);
    if (events[0].id === 1) this.#begin(events[0]);
    this.#heads(events.at(-1).id);
    this.#refresh();
  }

  #begin(first) {
    this.#isCommand = first.type.startsWith('run_');
    this.summary.commands(this.#isCommand);
    this.body.toggleAttribute('data-command', this.#isCommand);
    if (this.#isCommand) this.tabs.choose('output');
    this.tabs.offer('output', this.#isCommand || this.output.length > 0);
  }

  #heads(head) {
    if (this.#head === null && head > 0) this.#refresh();
    this.#head = Math.max(this.#head ?? 0, head);
    if (this.#head === 0) this.#show('unknown');
    this.#recount();
  }

  /** How much is here; once a frame, however many events came. */
  #count() {
    const { cursor } = this.#follow;
    if (this.output.length) this.tabs.offer('output', true);
    this.tabs.count('output', this.output.length ? count(this.output.length) : '');
    this.tabs.count('events', this.#head ? `${count(cursor)}/${count(this.#head)}` : '');
    this.connection.progress(cursor, this.#head ?? 0);
    if (cursor === this.#head) this.#revealHash();
  }

  /** The log begins anew (another database stands behind the address). */
  #reset() {
    this.#run = this.#first = this.#last = null;
    this.#head = null;
    this.#advice = '';
    this.events.reset();
    this.output.reset();
    this.#refresh();
  }

  #connected(state) {
    this.connection.show(state);
    if (state.phase === 'refused') this.#refuse(state.problem);
    if (state.phase === 'closed') this.#refresh();
    this.#tick();
  }

  /** Ask whether there is anything yet, without an error answer when there is not. */
  async #peek() {
    if (this.#ended || this.#head !== null) return;
    try {
      const { lastEventId } = await this.#api.get(`/v1/runs/build-${encodeURIComponent(this.#id)}/events?limit=1`);
      if (!this.#ended) this.#heads(lastEventId);
    } catch (error) {
      if (!this.#ended) this.#readFailed(error);
    }
  }

  async #readState() {
    if (this.#ended) return;
    try {
      const run = await this.#api.get(`/v1/runs/build-${encodeURIComponent(this.#id)}`);
      if (!this.#ended) this.#showRun(run);
    } catch (error) {
      if (!this.#ended) this.#readFailed(error);
    }
  }

  #readFailed(error) {
    const { status = 0 } = error;
    if (status === 404) this.#show('unknown');
    else if (status >= 400 && status < 500 && status !== 429) this.#refuse(error);
    else {
      if (status === 503) this.connection.storeAway(this.#run?.lastUpdate ?? new Date().toISOString());
      setTimeout(() => this.#refresh(), STATE_AGAIN);
    }
  }

  #showRun(run) {
    const before = this.#run;
    if (before && run.lastEventId < before.lastEventId) return;
    this.#run = run;
    this.connection.storeAway(null);
    this.#show('known');
    this.summary.show(run, this.#isCommand ? this.output.last(1)[0]?.text : '');
    this.steps.show(run);
    this.preview.show(run);
    const lines = this.output.last(20).map((line) => line.text);
    this.fault.show(run, { head: failure(run, this.#isCommand), advice: this.#advice, lines });
    this.#heads(run.lastEventId);
    document.title = `${titleMark(run)} ${run.name}`;
    this.#announce(run, before);
    this.#tick();
    if (run.lastEventId < this.#follow.cursor) this.#refresh();
  }

  #announce(run, before) {
    // Who comes when all is over reads it; who was there when it was not hears it.
    if (before ? before.isTerminal : !this.#wasUnknown) return;
    if (!run.isTerminal) {
      const step = (view) => view.steps.find((one) => one.status === 'running')?.name;
      const decile = (view) => Math.floor(view.progress / 10);
      const moved = !before || decile(run) > decile(before) || step(run) !== step(before);
      if (moved) this.#announcer.calmly(`${run.progress} %, ${run.message}`);
    } else if (run.status === 'completed') {
      this.#announcer.now(run.previewUrl ? 'Build finished, preview ready' : 'Finished');
      if (document.activeElement === document.body) this.preview.focus();
    } else if (run.status === 'failed') {
      this.#announcer.now(failure(run, this.#isCommand), { urgent: true });
    } else this.#announcer.now(status(run.status).word);
  }

  #tick() {
    const now = Date.now() + this.#skew;
    this.connection.tick();
    this.body.toggleAttribute('data-stale', this.connection.isStale);
    this.summary.tick(now);
    this.steps.tick(now);
    this.summary.quiet(this.#quietNote());
  }

  /** No event for more than three times the usual gap. */
  #quietNote() {
    if (!this.#run || this.#run.isTerminal || !this.connection.isLive || this.#last === this.#first) return '';
    const usual = (Date.parse(this.#last.timestamp) - Date.parse(this.#first.timestamp)) / (this.#last.id - 1);
    const silent = performance.now() - this.#lastArrival;
    if (silent < Math.max(QUIET_AFTER, 3 * usual)) return '';
    return `No news for ${duration(silent)} (usually every ${duration(usual)})`;
  }

  /** An address that ends in #e6 means event 6: show it, once it is here. */
  #revealHash() {
    const id = Number(/^#e(\d+)$/.exec(location.hash)?.[1]);
    if (!id || id > this.#follow.cursor || location.hash === this.#revealed) return;
    this.#revealed = location.hash;
    this.tabs.choose('events');
    this.events.reveal(id - 1);
  }

  #refuse(problem) {
    const noAccess = problem.status === 401 || problem.status === 403;
    const words = noAccess ? 'This link has expired. Ask for a new one.' : problem.message;
    this.#follow.stop();
    this.connection.show({ phase: noAccess ? 'refused' : 'stopped', attempt: 0 });
    this.refusal.replaceChildren(h('h1', {}, words), h('p', {}, noAccess ? '' : problem.fix));
    if (this.#run) this.refusal.hidden = false;
    else this.#show('refused');
  }

  /** loading, unknown, known, refused. What is known stays known: data is never cleared. */
  #show(state) {
    if (state === 'unknown' && (this.#run || this.#first)) return;
    if (this.body.dataset.state === state) return;
    this.body.dataset.state = state;
    this.unknown.hidden = state !== 'unknown';
    this.refusal.hidden = state !== 'refused';
    if (state !== 'unknown') return;
    this.#wasUnknown = true;
    this.#announcer.calmly(unknownWords(this.#id));
  }
}

function titleMark(run) {
  if (!run.isTerminal) return `${run.progress} %`;
  return new Map([['completed', '✓'], ['failed', '✗']]).get(run.status) ?? '⊘';
}

function unknownWords(id) {
  return `Nothing has been recorded for ${id} yet. This page will start by itself.`;
}

function unknownCard(id) {
  const path = `${location.origin}/api/builds/${encodeURIComponent(id)}/events`;
  const command = `curl ${path} -d '{"type":"plan_started"}'`;
  return h(
    'section',
    { class: 'card hero', hidden: true },
    h('span', { class: 'pulse', 'aria-hidden': 'true' }),
    h('h1', {}, unknownWords(id)),
    h('p', {}, 'To try it, record its first event from a terminal:'),
    h('div', { class: 'command' }, h('code', {}, command), copyButton(() => command, 'Copy')),
  );
}
