// runs: the list of all runs, newest first, kept fresh while somebody looks, and the form that starts a build.

import { Problem } from './api.mjs';
import { copyButton, h, icon, mark, say } from './dom.mjs';
import { ago, duration, moment, plural, status } from './words.mjs';

const EVERY = 2_000;
const PAGE = 50;

/** Show the list in `root` until the returned function is called. */
export function runsPage(root, context) {
  const page = new RunsPage(root, context);
  page.start();
  return () => page.stop();
}

class RunsPage {
  #api;
  #root;
  #navigate;
  #rows = new Map(); // id -> row
  #older = []; // runs of pages behind the first; they are not asked for again
  #next = null;
  #timer = null;
  #stopped = new AbortController();
  #list = h('ol', { class: 'runs' });
  #trouble = h('div', { class: 'banner', 'data-tone': 'warn', role: 'status', hidden: true });
  #more;
  #empty;
  #chip = h('span', { class: 'chip', 'data-phase': 'connecting' }, 'connecting');

  constructor(root, { api, corner, navigate }) {
    this.#api = api;
    this.#root = root;
    this.#navigate = navigate;
    corner.replaceChildren(this.#chip);
    this.#more = h('button', { type: 'button', class: 'quiet more-runs', hidden: true }, 'Older runs');
    this.#more.addEventListener('click', () => this.#loadOlder());
    this.#empty = emptyCard();
    this.form = new BuildForm({ api, navigate });
    this.body = h('div', { class: 'overview' }, this.#trouble, this.form.element, this.#empty, this.#list, this.#more);
  }

  start() {
    document.title = 'Runs · foldstream';
    this.#root.replaceChildren(this.body);
    const { signal } = this.#stopped;
    document.addEventListener('visibilitychange', () => document.hidden || this.#refresh(), { signal });
    this.#refresh();
  }

  stop() {
    this.#stopped.abort();
    clearTimeout(this.#timer);
  }

  async #refresh() {
    clearTimeout(this.#timer);
    try {
      const { runs, next } = await this.#api.get(`/v1/runs?limit=${PAGE}`);
      if (this.#stopped.signal.aborted) return;
      if (!this.#older.length) this.#next = next;
      this.#show(runs);
      this.#well();
    } catch (error) {
      if (this.#stopped.signal.aborted || !this.#unwell(error)) return;
    }
    clearTimeout(this.#timer);
    if (!document.hidden) this.#timer = setTimeout(() => this.#refresh(), EVERY);
  }

  async #loadOlder() {
    try {
      const page = await this.#api.get(`/v1/runs?limit=${PAGE}&before=${encodeURIComponent(this.#next)}`);
      this.#older.push(...page.runs);
      this.#next = page.next;
    } catch (error) {
      this.#unwell(error);
    }
    this.#refresh();
  }

  /** Rows are kept and moved, never made anew: what the reader points at stays. */
  #show(newest) {
    const runs = new Map();
    for (const run of [...newest, ...this.#older]) if (!runs.has(run.id)) runs.set(run.id, run);
    for (const [id, row] of this.#rows) {
      if (runs.has(id)) continue;
      row.element.remove();
      this.#rows.delete(id);
    }
    let place = this.#list.firstElementChild;
    for (const run of runs.values()) {
      const row = this.#rows.get(run.id) ?? this.#add(run);
      if (row.element === place) place = place.nextElementSibling;
      else this.#list.insertBefore(row.element, place);
      draw(row, run);
    }
    this.#empty.hidden = runs.size > 0;
    this.#more.hidden = !this.#next;
  }

  #add(run) {
    const row = makeRow(`/ui/runs/${encodeURIComponent(run.buildId)}`);
    this.#rows.set(run.id, row);
    return row;
  }

  #well() {
    this.#trouble.hidden = true;
    say(this.#chip, 'live');
    mark(this.#chip, 'data-phase', 'live');
  }

  /** Say what is wrong; true: it is worth asking again. */
  #unwell(error) {
    const refused = error instanceof Problem && (error.status === 401 || error.status === 403);
    const told = error instanceof Problem ? `${error.message}. ${error.fix}` : 'The server does not answer.';
    say(this.#trouble, refused ? 'This link has expired. Ask for a new one.' : `${told} Trying again every 2 s.`);
    this.#trouble.hidden = false;
    say(this.#chip, refused ? 'no access' : 'reconnecting');
    mark(this.#chip, 'data-phase', refused ? 'refused' : 'waiting');
    return !refused;
  }
}

function makeRow(href) {
  const row = {
    glyph: h('span', { class: 'glyph' }),
    name: h('span', { class: 'name' }),
    message: h('span', { class: 'message' }),
    word: h('span', { class: 'word' }),
    percent: h('span', { class: 'share' }),
    fill: h('span', { class: 'fill' }),
    when: h('time'),
    took: h('span'),
    status: '',
  };
  const bar = h('span', { class: 'mini', 'aria-hidden': 'true' }, row.fill);
  row.link = h(
    'a',
    { href },
    row.glyph,
    h('span', { class: 'what' }, row.name, row.message),
    h('span', { class: 'how' }, h('span', { class: 'line' }, row.word, row.percent), bar),
    h('span', { class: 'when' }, row.when, row.took),
  );
  row.element = h('li', {}, row.link);
  return row;
}

function draw(row, run) {
  const { word, shape, tone } = status(run.status);
  if (row.status !== run.status) row.glyph.replaceChildren(icon(shape));
  row.status = run.status;
  mark(row.element, 'data-tone', tone);
  say(row.name, run.name === run.buildId ? `Build ${run.name}` : run.name);
  say(row.message, run.status === 'failed' && run.error ? lastLine(run.error) : run.message);
  say(row.word, word);
  say(row.percent, `${run.progress} %`);
  row.fill.style.setProperty('--fill', run.progress / 100);
  if (!run.startedAt) return;
  const started = Date.parse(run.startedAt);
  say(row.when, ago(Date.now() - started));
  mark(row.when, 'datetime', run.startedAt);
  mark(row.when, 'title', moment(run.startedAt));
  say(row.took, duration((run.endedAt ? Date.parse(run.endedAt) : Date.now()) - started));
}

/** Where an error has many lines, they are the end of an output, and the last one says most. */
function lastLine(text) {
  return text.trim().split('\n').at(-1);
}

class BuildForm {
  #api;
  #navigate;
  #prompt = h('input', { id: 'prompt', name: 'prompt', type: 'text', autocomplete: 'off', maxlength: '4000' });
  #go = h('button', { type: 'submit', class: 'button' }, 'Build it');
  #trouble = h('p', { class: 'fault', role: 'alert' });

  constructor({ api, navigate }) {
    this.#api = api;
    this.#navigate = navigate;
    this.#prompt.required = true;
    this.#prompt.placeholder = 'A todo app with dark mode';
    const form = h(
      'form',
      { class: 'build', onsubmit: (sent) => this.#send(sent) },
      h('label', { for: 'prompt' }, 'What shall be built?'),
      h('div', { class: 'field' }, this.#prompt, this.#go),
      this.#trouble,
    );
    this.element = h('section', { class: 'ask' }, h('h1', {}, 'Runs'), form);
  }

  async #send(sent) {
    sent.preventDefault();
    this.#go.disabled = true;
    say(this.#go, 'Starting…');
    say(this.#trouble, '');
    try {
      const { buildId, buildToken } = await this.#api.post('/build-preview', { prompt: this.#prompt.value });
      this.#navigate(`/ui/runs/${encodeURIComponent(buildId)}`, this.#api.token ?? buildToken);
    } catch (error) {
      say(this.#trouble, error instanceof Problem ? `${error.message}. ${error.fix}` : 'The server does not answer.');
      this.#go.disabled = false;
      say(this.#go, 'Build it');
    }
  }
}

function emptyCard() {
  const origin = location.origin;
  const ways = [
    ['Watch any command', 'foldstream run -- sleep 5'],
    ['Build something', `curl ${origin}/build-preview -d '{"prompt":"a todo app with dark mode"}'`],
    ['Record events of your own', `curl ${origin}/api/builds/27/events -d '{"type":"plan_started"}'`],
  ];
  const demo = h('button', { type: 'button', class: 'button' }, 'Run the demo');
  demo.addEventListener('click', () => {
    const form = document.querySelector('form.build');
    form.elements.prompt.value = 'A todo app with dark mode';
    form.requestSubmit();
  });
  return h(
    'section',
    { class: 'card hero', hidden: true },
    h('h2', {}, 'No runs yet.'),
    h('p', {}, 'Whatever is recorded shows up here by itself. From a terminal:'),
    h('dl', {}, ...ways.flatMap(([what, command]) => [
      h('dt', {}, what),
      h('dd', { class: 'command' }, h('code', {}, command), copyButton(() => command, 'Copy')),
    ])),
    demo,
  );
}
