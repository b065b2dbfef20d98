// dom: elements, icons and small things every part of the page uses. Text only ever becomes text: nothing here or
// anywhere in this folder parses a string as HTML, so no event can bring a script.

const SVG = 'http://www.w3.org/2000/svg';
const DRAW_EVERY = 100; // milliseconds

/** h('a', {class: 'x', href, onclick: work}, 'text', child): attributes that are null or false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set the text only where it differs: what did not change is neither drawn nor announced again. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute only where it differs. */
export function mark(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

// Shapes, 16 by 16, drawn with one stroke each: a state can be told without its colour.
const SHAPES = new Map([
  ['done', ['M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13Z', 'm5 8.2 2.1 2.1L11.2 6']],
  [
    'running',
    [
      'M3 1.5h10M3 14.5h10',
      'M4.3 1.5c0 3.8 3.2 4.4 3.2 6.5s-3.2 2.7-3.2 6.5',
      'M11.7 1.5c0 3.8-3.2 4.4-3.2 6.5s3.2 2.7 3.2 6.5',
    ],
  ],
  ['pending', ['M3.2 3.2h9.6v9.6H3.2z']],
  ['failed', ['M5.3 1.5h5.4l3.8 3.8v5.4l-3.8 3.8H5.3l-3.8-3.8V5.3z', 'm5.8 5.8 4.4 4.4M10.2 5.8l-4.4 4.4']],
  ['cancelled', ['M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13Z', 'M3.6 12.4 12.4 3.6']],
  ['queued', ['M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13Z', 'M8 4.6V8l2.4 1.6']],
  ['skipped', ['M4 8h8']],
  ['arrow', ['M6 3.5h6.5V10', 'M12.2 3.8 3.5 12.5']],
  ['back', ['M9.8 3 4.8 8l5 5']],
  ['copy', ['M5.5 5.5h8v8h-8z', 'M10.5 5.5v-3h-8v8h3']],
  ['down', ['M8 2.5v10.6', 'm3.8 9 4.2 4.2L12.2 9']],
]);

/** An icon; with words it is an image of that name, without it is decoration. */
export function icon(shape, words = '') {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 16 16');
  svg.setAttribute('class', `icon icon-${shape}`);
  if (words) {
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', words);
  } else svg.setAttribute('aria-hidden', 'true');
  for (const d of SHAPES.get(shape) ?? []) {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('d', d);
    svg.append(path);
  }
  return svg;
}

/** A button that puts text on the clipboard; where the browser forbids that, it says so. */
export function copyButton(text, label) {
  const word = h('span', {}, label);
  const button = h('button', { class: 'quiet', type: 'button' }, icon('copy'), word);
  button.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text());
      word.textContent = 'Copied';
    } catch {
      word.textContent = 'Copying is not allowed here';
    }
    setTimeout(() => (word.textContent = label), 1500);
  });
  return button;
}

/** Run `work` now, and again after what comes meanwhile, but never twice within `ms` nor twice at once. */
export function paced(ms, work) {
  let busy = false;
  let again = false;
  async function call() {
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    await work();
    setTimeout(() => {
      busy = false;
      if (again) call();
    }, ms);
  }
  return call;
}

/** `work`, soon: in a frame that the browser draws, so a hidden page draws nothing, and at most ten times a second. */
export function drawn(work) {
  let asked = false;
  let last = -Infinity;
  return () => {
    if (asked) return;
    asked = true;
    const frame = () =>
      requestAnimationFrame(() => {
        asked = false;
        last = performance.now();
        work();
      });
    const wait = last + DRAW_EVERY - performance.now();
    if (wait > 0) setTimeout(frame, wait);
    else frame();
  };
}
