// steps: the plan of a run: what is done, what is under way, what is still to come, each with how long it took.

import { h, icon, mark, say } from './dom.mjs';
import { duration, plural, stepStatus } from './words.mjs';

export class Steps {
  #rows = [];
  #list = h('ol', { class: 'steps' });
  #count = h('span', { class: 'count' });
  #none = h('p', { class: 'none' });

  constructor() {
    this.element = h('section', { class: 'plan' }, h('h2', {}, 'Steps ', this.#count), this.#none, this.#list);
  }

  show(run) {
    const { steps, isTerminal } = run;
    while (this.#rows.length > steps.length) this.#rows.pop().element.remove();
    steps.forEach((step, index) => {
      this.#rows[index] ??= this.#add();
      draw(this.#rows[index], step, isTerminal);
    });
    const done = steps.filter((step) => step.status === 'completed').length;
    say(this.#count, steps.length ? `${done}/${steps.length}` : '');
    say(this.#none, steps.length ? '' : isTerminal ? 'There were no steps.' : 'The plan is being made.');
    this.#none.hidden = steps.length > 0;
  }

  /** now: milliseconds on the server's clock. */
  tick(now) {
    for (const row of this.#rows) {
      const { startedAt, endedAt, status } = row.step;
      const counts = startedAt && (endedAt || (status === 'running' && !row.over));
      say(row.took, counts ? duration((endedAt ? Date.parse(endedAt) : now) - Date.parse(startedAt)) : '');
    }
  }

  #add() {
    const row = {
      shape: '',
      step: {},
      icon: h('span', { class: 'glyph' }),
      name: h('span', { class: 'name' }),
      took: h('span', { class: 'took' }),
      more: h('p', { class: 'more' }),
      error: h('p', { class: 'fault' }),
    };
    const head = h('div', { class: 'line' }, row.name, row.took);
    row.element = h('li', {}, row.icon, h('div', { class: 'body' }, head, row.more, row.error));
    this.#list.append(row.element);
    return row;
  }
}

function draw(row, step, over) {
  const { word, shape, tone } = stepStatus(step.status, over);
  if (row.shape !== shape) {
    row.icon.replaceChildren(icon(shape, word));
    row.shape = shape;
  }
  row.step = step;
  row.over = over;
  mark(row.element, 'data-tone', tone);
  mark(row.element, 'data-status', step.status);
  mark(row.element, 'aria-current', step.status === 'running' && !over && 'step');
  say(row.name, step.name);
  const files = step.files.length ? plural(step.files.length, 'file') : '';
  const notRun = word === 'not run' || word === 'stopped' ? word : '';
  say(row.more, notRun || [step.description, files].filter(Boolean).join(' · '));
  mark(row.more, 'title', step.files.join('\n') || null);
  say(row.error, step.error ?? '');
}
