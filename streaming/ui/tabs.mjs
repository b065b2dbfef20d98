// tabs: one of several lists at a time, chosen by mouse or arrow keys (the tabs pattern of WAI-ARIA).

import { h, mark, say } from './dom.mjs';

export class Tabs {
  #tabs;
  #bar = h('div', { class: 'tabs', role: 'tablist', 'aria-label': 'Details' });
  #chosen = null;

  /** Each: {key, label, list}; the first is shown. */
  constructor(tabs) {
    this.#tabs = tabs.map((tab) => ({ ...tab, count: h('span', { class: 'count' }) }));
    this.element = h('section', { class: 'panel' }, this.#bar);
    for (const tab of this.#tabs) {
      const [id, panel] = [`tab-${tab.key}`, `panel-${tab.key}`];
      tab.button = h('button', { type: 'button', role: 'tab', id, 'aria-controls': panel }, tab.label, ' ', tab.count);
      tab.button.addEventListener('click', () => this.choose(tab.key));
      tab.panel = h('div', { role: 'tabpanel', id: panel, 'aria-labelledby': id }, tab.list.element);
      this.#bar.append(tab.button);
      this.element.append(tab.panel);
    }
    this.#bar.addEventListener('keydown', (pressed) => this.#key(pressed));
    this.choose(tabs[0].key);
  }

  choose(key) {
    this.#chosen = key;
    for (const tab of this.#tabs) {
      const chosen = tab.key === key;
      mark(tab.button, 'aria-selected', String(chosen));
      mark(tab.button, 'tabindex', chosen ? '0' : '-1');
      tab.panel.hidden = !chosen;
      if (chosen) tab.list.shown();
    }
  }

  /** The number beside a tab's name. */
  count(key, text) {
    say(this.#tabs.find((tab) => tab.key === key).count, text);
  }

  /** A tab with nothing behind it is not offered. */
  offer(key, isOffered) {
    this.#tabs.find((tab) => tab.key === key).button.hidden = !isOffered;
  }

  #key(pressed) {
    const offered = this.#tabs.filter((tab) => !tab.button.hidden);
    const by = new Map([['ArrowRight', 1], ['ArrowLeft', -1]]).get(pressed.key);
    if (!by) return;
    const at = offered.findIndex((tab) => tab.key === this.#chosen);
    const next = offered[(at + by + offered.length) % offered.length];
    this.choose(next.key);
    next.button.focus();
  }
}
