// connection: how the page says whether it is live: a chip that is always there, a banner when something is wrong.

import { h, mark, say } from './dom.mjs';
import { clock, count } from './words.mjs';

const NAMES = new Map([
  ['ws', 'live · ws'],
  ['sse', 'sse'],
  ['polling', 'polling'],
]);
const WHY = new Map([
  ['ws', 'Events arrive over WebSocket'],
  ['sse', 'Events arrive over Server-Sent Events, because WebSocket does not get through'],
  ['polling', 'Events are asked for, because neither WebSocket nor Server-Sent Events get through'],
]);
const GRACE = 1_000; // shorter interruptions are not worth a word
const LONG_REPLAY = 200; // events; fewer are there before anybody could read about it

export class Connection {
  #state = { phase: 'connecting', attempt: 0 };
  #wasLive = false;
  #offSince = null;
  #head = 0;
  #cursor = 0;
  #replaying = false;
  #doneAt = 0;
  #storeAway = null;
  #saidLost = false;
  #chip = h('span', { class: 'chip', 'data-phase': 'connecting' }, 'connecting');
  #words = h('span');
  #retry;

  constructor({ corner, retry, announcer }) {
    this.announcer = announcer;
    corner.replaceChildren(this.#chip);
    this.#retry = h('button', { type: 'button', class: 'quiet', onclick: retry }, 'Retry now');
    this.element = h('div', { class: 'banner', hidden: true }, this.#words, this.#retry);
  }

  get isLive() {
    return this.#state.phase === 'live';
  }

  /** state: what `Follow` says. */
  show(state) {
    this.#state = state;
    const off = state.phase === 'waiting' || state.phase === 'connecting';
    this.#offSince = off ? (this.#offSince ?? Date.now()) : null;
    if (state.phase === 'live') this.#wasLive = true;
    mark(this.#chip, 'data-phase', state.phase);
    if (state.transport) mark(this.#chip, 'data-transport', state.transport);
    say(this.#chip, this.#chipWords());
    mark(this.#chip, 'title', this.#why());
    this.tick();
  }

  /** How far the events are here: up to cursor, of head. */
  progress(cursor, head) {
    this.#cursor = cursor;
    this.#head = head;
    if (head - cursor > LONG_REPLAY) this.#replaying = true;
    if (this.#replaying && cursor >= head) {
      this.#replaying = false;
      this.#doneAt = Date.now();
      this.announcer.calmly('Up to date');
    }
    this.tick();
  }

  /** The store does not answer; since: the time of the state that is shown, null when it answers again. */
  storeAway(since) {
    if (since && !this.#storeAway) this.announcer.now('The store does not answer');
    this.#storeAway = since;
    this.tick();
  }

  /** Call it about twice a second: the banner counts. */
  tick() {
    const { text, tone, retry = false } = this.#banner();
    this.#announce();
    this.element.hidden = !text;
    say(this.#words, text);
    mark(this.element, 'data-tone', text ? tone : null);
    this.#retry.hidden = !retry;
    this.#retry.disabled = this.#state.phase !== 'waiting';
  }

  #announce() {
    const isLost = this.isStale && this.#wasLive;
    if (isLost === this.#saidLost) return;
    this.#saidLost = isLost;
    if (isLost || this.isLive) this.announcer.now(isLost ? 'Connection lost' : 'Connected again');
  }

  /** The bar is not to be trusted to be the present. */
  get isStale() {
    return this.#offSince !== null && Date.now() - this.#offSince >= GRACE;
  }

  #banner() {
    if (this.isStale) return { text: this.#lost(), tone: 'warn', retry: true };
    if (this.#storeAway) {
      return { text: `The store does not answer; showing state from ${clock(this.#storeAway)}.`, tone: 'warn' };
    }
    if (this.#replaying) {
      return { text: `Replaying ${count(this.#cursor)} of ${count(this.#head)} events`, tone: 'calm' };
    }
    return { text: Date.now() - this.#doneAt < 2_000 ? 'Up to date' : '', tone: 'calm' };
  }

  #lost() {
    const { phase, until, attempt } = this.#state;
    if (!this.#wasLive && !attempt) return 'Connecting…';
    const what = this.#wasLive ? 'Connection lost.' : 'The server cannot be reached.';
    if (phase === 'connecting') return `${what} Reconnecting now${attempt ? ` (attempt ${attempt})` : ''}.`;
    return `${what} Reconnecting in ${Math.max(1, Math.ceil((until - Date.now()) / 1000))} s (attempt ${attempt}).`;
  }

  #chipWords() {
    const { phase, transport } = this.#state;
    if (phase === 'live') return NAMES.get(transport);
    return new Map([['closed', 'complete'], ['refused', 'no access'], ['waiting', 'reconnecting']]).get(phase) ?? phase;
  }

  #why() {
    const { phase, transport, why } = this.#state;
    if (phase === 'closed') return 'The run is over and everything that was recorded is here';
    const words = phase === 'live' ? WHY.get(transport) : '';
    return [words, why && `(${why})`].filter(Boolean).join(' ') || null;
  }
}
