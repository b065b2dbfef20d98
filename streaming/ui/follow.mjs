// follow: the events of one run, each once and in order, over whatever the network lets through.
//
// Theory. The cursor is all the memory there is. A link is one attempt over one transport, started from the cursor;
// what it brings passes `step`. So a cut connection, a change of transport, two links at once and a late start are one
// case: go on from the cursor. Links stand in order of preference. One that says nothing gives way to the next; when
// none speaks, all wait (full jitter) and begin again with the first; while a lesser one speaks, the best is tried at
// times.
//
// Pure but for timers: transports, the reading of the log and randomness are arguments.

import { NEXT, GAP, step } from './step.mjs';

export const PATIENCE = 5_000;
const PROBE_EVERY = 30_000;
const BACKOFF_BASE = 500;
const BACKOFF_CAP = 15_000;

/** Full jitter: milliseconds to wait before attempt 1, 2, 3 ...; random is in [0, 1). */
export function backoff(attempt, random) {
  return Math.round(random * Math.min(BACKOFF_CAP, BACKOFF_BASE * 2 ** attempt));
}

/**
 * links: [{name, open(cursor, ear) -> close()}], best first. read(cursor) -> a page of events after it; an empty one at
 * the end. on: events(list), head(id), clock(iso), reset(), state({phase, transport, attempt, until, why, problem}).
 *
 * Phases: connecting, live, waiting (until: epoch milliseconds), closed (the run is over and all is here), refused.
 */
export class Follow {
  #links;
  #read;
  #on;
  #random;
  #link = null; // the one that counts
  #probe = null; // a better one on trial
  #timer = null; // the next attempt, or the next probe
  #attempt = 0;
  #epoch = null;
  #filling = null;
  #holes = false;
  #ended = false;
  #tier = 0; // where the next attempt begins
  #why = '';

  constructor({ links, read, on, cursor = 0, random = Math.random }) {
    this.#links = links;
    this.#read = read;
    this.#on = on;
    this.#random = random;
    this.cursor = cursor;
  }

  start() {
    this.#open(0);
  }

  /** Do not wait any longer for the next attempt. */
  retry() {
    if (this.#ended || this.#link) return;
    clearTimeout(this.#timer);
    this.#open(this.#tier);
  }

  stop() {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#drop(this.#link);
    this.#drop(this.#probe);
  }

  #open(tier, { probe = false } = {}) {
    const link = { tier, name: this.#links[tier].name, heardAt: null, dead: false, close: () => {}, patience: null };
    if (probe) this.#probe = link;
    else {
      this.#link = link;
      this.#say('connecting');
    }
    link.patience = setTimeout(() => this.#lost(link, 'it said nothing for 5 s'), PATIENCE);
    const alive = (work) => (...args) => {
      if (!link.dead) work(...args);
    };
    const close = this.#links[tier].open(this.cursor, {
      heard: alive((told) => this.#heard(link, told)),
      events: alive((events) => {
        this.#heard(link);
        if (!link.dead) this.#take(events);
      }),
      behind: alive((head) => head > this.cursor && this.#fill()),
      reset: alive((cursor) => this.#reset(cursor)),
      closed: alive((last) => this.#closed(last)),
      lost: alive((why) => this.#lost(link, why)),
      refused: alive((problem) => this.#end('refused', { problem })),
    });
    if (link.dead) close();
    else link.close = close;
  }

  /** A sign of life, with what it tells: {head, epoch, at}. */
  #heard(link, { head, epoch, at } = {}) {
    if (link.heardAt === null) {
      clearTimeout(link.patience);
      link.heardAt = Date.now();
      if (link === this.#probe) {
        this.#drop(this.#link);
        this.#link = link;
        this.#probe = null;
      }
      if (link.tier === 0) this.#why = '';
      this.#say('live');
      this.#probeLater();
    }
    if (at) this.#on.clock(at);
    if (Number.isSafeInteger(head)) this.#on.head(head);
    if (epoch && this.#epoch && epoch !== this.#epoch) {
      this.#reset();
      this.#drop(link);
      this.#link = null;
      this.#open(link.tier);
    }
    this.#epoch = epoch || this.#epoch;
  }

  #take(events) {
    const fresh = [];
    let hole = false;
    for (const event of events) {
      const found = step(this.cursor, event.id);
      if (found === NEXT) {
        this.cursor = event.id;
        fresh.push(event);
      }
      hole ||= found === GAP;
    }
    if (fresh.length) this.#on.events(fresh);
    if (hole) this.#fill();
  }

  /** Close holes from the log. Many may ask; one reads. */
  #fill() {
    this.#holes = true;
    this.#filling ??= this.#readOn()
      .catch((error) => this.#lost(this.#link, error.message))
      .finally(() => {
        this.#filling = null;
      });
    return this.#filling;
  }

  async #readOn() {
    while (this.#holes && !this.#ended) {
      this.#holes = false;
      for (;;) {
        const before = this.cursor;
        const page = await this.#read(before);
        if (this.#ended || !page.length) break;
        this.#take(page);
        if (this.cursor === before) throw new Error(`the log has a hole after ${before}`);
      }
    }
  }

  async #closed(last) {
    if (last > this.cursor) await this.#fill();
    if (last <= this.cursor) this.#end('closed');
  }

  #reset(cursor = 0) {
    this.cursor = cursor;
    this.#on.reset();
  }

  #lost(link, why) {
    if (!link || link.dead) return;
    this.#drop(link);
    if (link === this.#probe) {
      this.#probe = null;
      this.#probeLater();
      return;
    }
    this.#link = null;
    this.#drop(this.#probe);
    this.#probe = null;
    clearTimeout(this.#timer);
    const next = link.tier + 1 < this.#links.length ? link.tier + 1 : 0;
    const wasMute = link.heardAt === null;
    if (wasMute) this.#why = `${link.name}: ${why}`;
    if (wasMute && next) this.#open(next);
    else this.#wait(link, next);
  }

  #wait(link, next) {
    const lived = link.heardAt === null ? -1 : Date.now() - link.heardAt;
    this.#attempt = lived > PATIENCE ? 1 : this.#attempt + 1;
    // What worked is tried first, unless it keeps breaking: some proxies let one frame through and then cut.
    this.#tier = lived >= 0 && this.#attempt < 3 ? link.tier : next;
    const delay = backoff(this.#attempt, this.#random());
    this.#timer = setTimeout(() => this.#open(this.#tier), delay);
    this.#say('waiting', { until: Date.now() + delay });
  }

  #probeLater() {
    clearTimeout(this.#timer);
    if (this.#link?.tier) this.#timer = setTimeout(() => this.#open(0, { probe: true }), PROBE_EVERY);
  }

  #drop(link) {
    if (!link || link.dead) return;
    link.dead = true;
    clearTimeout(link.patience);
    link.close();
  }

  #end(phase, more = {}) {
    if (this.#ended) return;
    const transport = this.#link?.name;
    this.stop();
    this.#on.state({ phase, transport, attempt: 0, why: '', ...more });
  }

  #say(phase, more = {}) {
    this.#on.state({ phase, transport: this.#link?.name, attempt: this.#attempt, why: this.#why, ...more });
  }
}
