// cards: what a run's end leaves to do: open the preview, or understand the failure.

import { copyButton, h, icon, say } from './dom.mjs';
import { webAddress } from './words.mjs';

export class PreviewCard {
  #url = null;
  #frame = h('div', { class: 'thumb', 'aria-hidden': 'true' });
  #words = h('span', { class: 'address' });
  #link = h('a', { class: 'button', target: '_blank', rel: 'noopener noreferrer' }, 'Open preview', icon('arrow'));

  constructor() {
    this.element = h(
      'section',
      { class: 'card preview', hidden: true },
      this.#frame,
      h('div', { class: 'words' }, h('h2', {}, 'The preview is ready'), this.#words),
      h('div', { class: 'buttons' }, this.#link, copyButton(() => this.#url, 'Copy link')),
    );
  }

  show({ previewUrl }) {
    const url = previewUrl ? webAddress(previewUrl) : null;
    this.element.hidden = url === null;
    if (url === null || url.href === this.#url) return;
    this.#url = url.href;
    this.#link.href = url.href;
    say(this.#words, url.host + (url.pathname === '/' ? '' : url.pathname));
    this.#frame.replaceChildren(url.origin === location.origin ? thumbnail(url.href) : icon('done'));
  }

  focus() {
    if (!this.element.hidden) this.#link.focus({ preventScroll: true });
  }
}

/** The preview itself, small: a stranger's page, so without our origin, without forms, windows and clicks. */
function thumbnail(src) {
  const frame = h('iframe', { src, sandbox: 'allow-scripts', tabindex: '-1', title: 'Preview' });
  frame.referrerPolicy = 'no-referrer';
  return frame;
}

export class ErrorCard {
  #head = h('h2');
  #reason = h('pre', { class: 'reason' });
  #fix = h('p', { class: 'fix' });
  #linesHead = h('h3', {}, 'The last lines of its output');
  #lines = h('pre', { class: 'lines', tabindex: '0', role: 'region', 'aria-label': 'The last lines' });

  constructor() {
    const parts = [this.#head, this.#reason, this.#fix, this.#lines];
    const text = () => parts.map((part) => part.textContent).join('\n');
    this.element = h(
      'section',
      { class: 'card fault', hidden: true },
      h('div', { class: 'heading' }, icon('failed'), this.#head, copyButton(text, 'Copy')),
      this.#reason,
      this.#fix,
      this.#linesHead,
      this.#lines,
    );
  }

  /** advice: what the event that ended the run suggests; lines: the end of the output; head: see `failure`. */
  show(run, { head, advice, lines }) {
    this.element.hidden = run.status !== 'failed';
    if (this.element.hidden) return;
    say(this.#head, head);
    say(this.#reason, run.error ?? 'No reason was given.');
    say(this.#fix, advice);
    say(this.#lines, lines.join('\n'));
    const isSaid = lines.length === 0 || run.error?.includes(lines.at(-1));
    this.#linesHead.hidden = this.#lines.hidden = isSaid;
  }
}

/** What failed, and at which step if it was one. */
export function failure(run, isCommand) {
  if (isCommand) return run.message || 'The command failed';
  const step = run.steps.find(({ status }) => status === 'failed');
  return step ? `Build failed at ${step.name}` : 'Build failed';
}
