// summary: the head of a run's page: name, state, how long, the bar, and what is happening now.

import { h, icon, mark, say } from './dom.mjs';
import { ago, duration, moment, phases, plural, status } from './words.mjs';

const LIVE_PHASE = new Map([
  ['planning', 'Plan'],
  ['executing', 'Tasks'],
  ['deploying', 'Deploy'],
]);

export class Summary {
  #badge = h('span', { class: 'badge' });
  #started = h('span');
  #took = h('span', { class: 'took' });
  #title = h('h1', { class: 'title' });
  #bar = h('div', { class: 'bar', role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100' });
  #percent = h('span', { class: 'number' });
  #now = h('p', { class: 'now' });
  #quiet = h('p', { class: 'quiet-note', hidden: true });
  #fills = [];
  #run = null;

  constructor(id) {
    this.#bar.setAttribute('aria-label', 'Progress');
    say(this.#title, `Build ${id}`);
    this.commands(false);
    const percent = h('p', { class: 'percent', 'aria-hidden': 'true' }, this.#percent, h('small', {}, '%'));
    this.element = h(
      'section',
      { class: 'summary' },
      h('div', { class: 'facts' }, this.#badge, this.#started, this.#took),
      this.#title,
      h('div', { class: 'gauge' }, this.#bar, percent),
      this.#now,
      this.#quiet,
    );
  }

  /** A wrapped command has no phases: its bar is one piece. */
  commands(isCommand) {
    const bands = phases(isCommand);
    if (bands.length === this.#fills.length) return;
    this.#fills = bands.map((band) => ({ ...band, element: h('div', { class: 'fill' }) }));
    this.#bar.replaceChildren(
      ...this.#fills.map(({ name, from, to, element }) => {
        const piece = h('div', { class: 'piece', 'data-phase': name }, h('div', { class: 'track' }, element));
        if (name) piece.append(h('span', { class: 'phase', 'aria-hidden': 'true' }, name));
        piece.style.setProperty('--share', to - from);
        return piece;
      }),
    );
    if (this.#run) this.show(this.#run);
  }

  /** run: the answer of GET /v1/runs/{id}. line: the last one of a command's output. */
  show(run, line = '') {
    this.#run = run;
    const { word, shape, tone } = status(run.status);
    if (this.#badge.dataset.status !== run.status) {
      this.#badge.replaceChildren(icon(shape), word);
      this.#badge.dataset.status = run.status;
      this.#badge.dataset.tone = tone;
    }
    mark(this.element, 'data-tone', tone);
    say(this.#title, run.name === run.buildId ? `Build ${run.name}` : run.name);
    say(this.#percent, String(run.progress));
    mark(this.#bar, 'aria-valuenow', run.progress);
    mark(this.#bar, 'aria-valuetext', `${run.progress} %, ${word}`);
    const phase = run.status === 'deploying' && run.progress < 80 ? 'Build' : LIVE_PHASE.get(run.status);
    for (const { name, from, to, element } of this.#fills) {
      const share = Math.min(1, Math.max(0, (run.progress - from) / (to - from)));
      element.style.setProperty('--fill', share);
      mark(element.closest('.piece'), 'data-now', !run.isTerminal && (name === phase || !name) && '');
    }
    say(this.#now, run.isTerminal ? ending(run) : line || run.message);
  }

  /** Times go on; now: milliseconds on the server's clock. */
  tick(now) {
    const run = this.#run;
    if (!run?.startedAt) return;
    const started = Date.parse(run.startedAt);
    say(this.#started, `started ${ago(now - started)}`);
    mark(this.#started, 'title', moment(run.startedAt));
    say(this.#took, duration((run.endedAt ? Date.parse(run.endedAt) : now) - started));
  }

  /** A producer that is slower than it was is no error, but the reader wants to know. "" hides the note. */
  quiet(text) {
    say(this.#quiet, text);
    this.#quiet.hidden = !text;
  }
}

function ending(run) {
  const took = run.endedAt ? duration(Date.parse(run.endedAt) - Date.parse(run.startedAt)) : '';
  const steps = run.steps.length ? `, ${plural(run.steps.length, 'step')}` : '';
  return `${status(run.status).word} after ${took}${steps}`;
}
