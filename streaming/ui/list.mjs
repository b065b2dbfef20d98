// list: a long list that stays usable. It keeps every item and shows the last few hundred as rows; earlier ones come on
// demand. While its end is in sight it follows what is new; scrolled up, it stays where it is and says how much came.

import { drawn, h, icon, mark, say } from './dom.mjs';
import { count } from './words.mjs';

const SHOWN = 500;
const NEAR = 48; // pixels from the end that still count as "at the end"

export class LongList {
  #items = [];
  #from = 0; // the first item that has a row
  #to = 0; // one past the last that has one
  #most = SHOWN;
  #follows = true;
  #row;
  #rows;
  #scroll;
  #earlier;
  #jump;
  #jumpWords = h('span');
  #redraw = drawn(() => this.#draw());

  /** row(item, index) -> an <li>. label: what the list is, for screen readers. */
  constructor({ row, label, style }) {
    this.#row = row;
    this.#rows = h('ol', { class: `rows ${style}` });
    this.#earlier = h('button', { class: 'earlier', type: 'button', hidden: true, onclick: () => this.#showEarlier() });
    this.#jump = h('button', { class: 'jump', type: 'button', hidden: true, onclick: () => this.toEnd() });
    this.#jump.append(icon('down'), this.#jumpWords);
    this.#scroll = h('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': label });
    this.#scroll.append(this.#earlier, this.#rows);
    this.#scroll.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.element = h('div', { class: 'long' }, this.#scroll, this.#jump);
  }

  get length() {
    return this.#items.length;
  }

  /** The last few items, oldest first. */
  last(number) {
    return this.#items.slice(-number);
  }

  push(items) {
    for (const item of items) this.#items.push(item);
    this.#redraw();
  }

  reset() {
    this.#items = [];
    this.#clear(0);
    this.#follows = true;
    this.#redraw();
  }

  /** Go to the end and follow what comes. */
  toEnd() {
    this.#follows = true;
    this.#draw();
  }

  /** It has just become visible: a hidden list is neither drawn nor scrolled. */
  shown() {
    this.#draw();
  }

  /** Bring one item into view and open it. */
  reveal(index) {
    if (index < 0 || index >= this.#items.length) return;
    this.#draw();
    while (index < this.#from) this.#showEarlier();
    this.#follows = false;
    const row = this.#rows.children[index - this.#from];
    row.classList.add('revealed');
    const details = row.querySelector('details');
    if (details) details.open = true;
    row.scrollIntoView({ block: 'center' });
  }

  #clear(from) {
    this.#rows.replaceChildren();
    this.#from = this.#to = from;
    this.#most = SHOWN;
  }

  #draw() {
    if (this.element.closest('[hidden]')) return;
    const all = this.#items.length;
    if (this.#follows) {
      if (all - this.#to > this.#most) this.#clear(all - SHOWN);
      this.#append(all);
      while (this.#to - this.#from > this.#most) {
        this.#rows.firstChild.remove();
        this.#from += 1;
      }
      this.#toBottom();
    } else this.#append(Math.min(all, this.#from + this.#most));
    this.#words();
  }

  #append(to) {
    const rows = document.createDocumentFragment();
    for (; this.#to < to; this.#to += 1) rows.append(this.#row(this.#items[this.#to], this.#to));
    this.#rows.append(rows);
  }

  #showEarlier() {
    const from = Math.max(0, this.#from - SHOWN);
    const rows = document.createDocumentFragment();
    for (let index = from; index < this.#from; index += 1) rows.append(this.#row(this.#items[index], index));
    const before = this.#scroll.scrollHeight;
    this.#follows = false;
    this.#most += this.#from - from;
    this.#from = from;
    this.#rows.prepend(rows);
    this.#words();
    this.#scroll.scrollTop += this.#scroll.scrollHeight - before;
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroll;
    if (!clientHeight) return;
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    this.#follows = atEnd && (this.#follows || this.#to === this.#items.length);
    this.#words();
  }

  #toBottom() {
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
  }

  #words() {
    this.#earlier.hidden = this.#from === 0;
    say(this.#earlier, `Show earlier (${count(this.#from)})`);
    const below = this.#items.length - this.#to;
    this.#jump.hidden = this.#follows;
    say(this.#jumpWords, below ? `Jump to live (${count(below)} new)` : 'Jump to live');
    mark(this.element, 'data-follows', String(this.#follows));
  }
}
