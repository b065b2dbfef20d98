// words: how states, times and numbers are said. Pure.

const STATUS = new Map([
  ['unknown', { word: 'Waiting', shape: 'pending', tone: 'calm' }],
  ['queued', { word: 'Queued', shape: 'queued', tone: 'calm' }],
  ['planning', { word: 'Planning', shape: 'running', tone: 'live' }],
  ['executing', { word: 'Running', shape: 'running', tone: 'live' }],
  ['deploying', { word: 'Deploying', shape: 'running', tone: 'live' }],
  ['completed', { word: 'Finished', shape: 'done', tone: 'good' }],
  ['failed', { word: 'Failed', shape: 'failed', tone: 'bad' }],
  ['cancelled', { word: 'Cancelled', shape: 'cancelled', tone: 'calm' }],
]);

const STEP = new Map([
  ['pending', { word: 'not started', shape: 'pending', tone: 'calm' }],
  ['running', { word: 'running', shape: 'running', tone: 'live' }],
  ['completed', { word: 'done', shape: 'done', tone: 'good' }],
  ['failed', { word: 'failed', shape: 'failed', tone: 'bad' }],
]);

/** The word, the shape and the tone (calm, live, good, bad) of a run's status. */
export function status(name) {
  return STATUS.get(name) ?? STATUS.get('unknown');
}

/** The same for a step; `over` says that its run has ended, so that what has not begun never will. */
export function stepStatus(name, over) {
  if (over && name === 'pending') return { word: 'not run', shape: 'skipped', tone: 'calm' };
  if (over && name === 'running') return { word: 'stopped', shape: 'cancelled', tone: 'calm' };
  return STEP.get(name) ?? STEP.get('pending');
}

/** Does an event of this type tell that something failed? */
export function isFailure(type) {
  return type === 'error' || type.endsWith('_failed');
}

/** 1204 -> 1,204. */
export function count(number) {
  return number.toLocaleString('en');
}

/** 1 event, 2 events. */
export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? '' : 's'}`;
}

/** How long, from milliseconds: < 0.1 s, 0.4 s, 24 s, 3 min 05 s, 2 h 10 min, 3 days. */
export function duration(ms) {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 0.05) return '< 0.1 s';
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, '0')} s`;
  if (whole >= 172_800) return plural(Math.floor(whole / 86_400), 'day');
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`;
}

/** How long ago, from milliseconds. */
export function ago(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 5) return 'just now';
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return plural(Math.floor(seconds / 86_400), 'day') + ' ago';
}

const CLOCK = new Intl.DateTimeFormat('en', { timeStyle: 'medium', hourCycle: 'h23' });
const MOMENT = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'medium', hourCycle: 'h23' });

/** 07:15:20 in the reader's zone, from an ISO time; empty for none. */
export function clock(iso) {
  return iso ? CLOCK.format(new Date(iso)) : '';
}

/** The day and the time, for tooltips. */
export function moment(iso) {
  return iso ? MOMENT.format(new Date(iso)) : '';
}

/** A link's address if it is one of the web, else null: `javascript:` and the like never become a link. */
export function webAddress(text) {
  try {
    const url = new URL(text);
    return url.protocol === 'https:' || url.protocol === 'http:' ? url : null;
  } catch {
    return null;
  }
}

// Colour and cursor codes of terminals, and links of theirs (OSC): shown as plain text.
const TERMINAL = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;

/** The lines of output that an event carries in `logs`, `lines` or `line`, and a word about those left out. */
export function outputLines({ data }) {
  const told = data.logs ?? data.lines ?? data.line ?? [];
  const lines = Array.isArray(told) ? told : [told];
  const shown = lines.flatMap((line) => String(line).replace(TERMINAL, '').split('\n')).map(overwritten);
  return data.dropped > 0 ? [`… ${plural(data.dropped, 'line')} left out`, ...shown] : shown;
}

/** What a terminal would leave of a line with carriage returns: the last piece. */
function overwritten(line) {
  return line.replace(/\r+$/, '').split('\r').at(-1);
}

const PHASES = [
  { name: 'Plan', from: 0, to: 10 },
  { name: 'Tasks', from: 10, to: 70 },
  { name: 'Build', from: 70, to: 80 },
  { name: 'Deploy', from: 80, to: 100 },
];

/** The bands of the bar, as streaming draws what eventstore/categories/build.py counts. */
export function phases(isCommand) {
  return isCommand ? [{ name: '', from: 0, to: 100 }] : PHASES;
}
