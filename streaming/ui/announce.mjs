// announce: what a screen reader says by itself. Calm news waits its turn (one in five seconds, the newest wins);
// urgent news does not.

import { h } from './dom.mjs';

const EVERY = 5_000;

export class Announcer {
  #polite = h('div', { class: 'unseen', role: 'status', 'aria-live': 'polite' });
  #urgent = h('div', { class: 'unseen', role: 'alert' });
  #waiting = null;
  #timer = null;

  constructor(root) {
    root.append(this.#polite, this.#urgent);
  }

  /** Progress and the like. */
  calmly(text) {
    this.#waiting = text;
    if (this.#timer === null) this.#next();
  }

  /** The end of a run, a failure: at once. */
  now(text, { urgent = false } = {}) {
    this.#waiting = null;
    (urgent ? this.#urgent : this.#polite).textContent = text;
  }

  #next() {
    this.#timer = null;
    if (this.#waiting === null) return;
    this.#polite.textContent = this.#waiting;
    this.#waiting = null;
    this.#timer = setTimeout(() => this.#next(), EVERY);
  }
}
