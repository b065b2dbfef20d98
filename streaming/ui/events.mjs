// events: one event, and one line of output, as rows of a list.

import { copyButton, h } from './dom.mjs';
import { clock, duration, isFailure, moment, outputLines } from './words.mjs';

/** first: the run's first event, from which offsets count. */
export function eventRow(event, first) {
  const { id, type, timestamp } = event;
  const offset = first ? `+${duration(Date.parse(timestamp) - Date.parse(first.timestamp))}` : '';
  const details = h(
    'details',
    {},
    h(
      'summary',
      {},
      h('span', { class: 'event-id' }, String(id)),
      h('time', { datetime: timestamp, title: `${moment(timestamp)} (${offset})` }, clock(timestamp)),
      h('span', { class: 'message' }, sentence(event)),
      h('code', { class: 'type' }, type),
    ),
  );
  details.addEventListener('toggle', () => details.open && details.append(inside(event)), { once: true });
  return h('li', { id: `e${id}`, 'data-tone': tone(type) }, details);
}

/** What happened, in words: what it printed, else what its producer says, else its type. */
function sentence(event) {
  const { message } = event.data;
  const printed = event.type === 'run_output' ? outputLines(event).at(-1) : '';
  return printed || (typeof message === 'string' && message) || event.type.replaceAll('_', ' ');
}

function inside(event) {
  const json = JSON.stringify(event.data, null, 2);
  const link = () => `${location.origin}${location.pathname}#e${event.id}`;
  const buttons = h('div', { class: 'buttons' }, copyButton(link, 'Copy link'), copyButton(() => json, 'Copy JSON'));
  return h('div', { class: 'inside' }, h('pre', { tabindex: '0' }, json), buttons);
}

function tone(type) {
  if (isFailure(type)) return 'bad';
  if (type.endsWith('_completed')) return 'good';
  return type.endsWith('_started') ? 'live' : 'calm';
}

/** line: {text, id of its event}. */
export function lineRow(line, index) {
  const number = h('span', { class: 'number', 'aria-hidden': 'true' }, String(index + 1));
  return h('li', {}, number, h('code', {}, line.text));
}
