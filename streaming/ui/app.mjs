// app: which page the address means, and moving between the two without loading anew.
//
// A `?token=` in the address is taken out of it at once and kept in the entry of the browser's history: it survives a
// reload, and no log, bookmark or screenshot of the address shows it.

import { Announcer } from './announce.mjs';
import { Api } from './api.mjs';
import { h } from './dom.mjs';
import { runPage } from './run.mjs';
import { runsPage } from './runs.mjs';

const root = document.querySelector('main');
const crumb = document.querySelector('.crumb');
const corner = document.querySelector('.corner');
const announcer = new Announcer(document.body);
let leave = () => {};
let shown = '';
let token = null;

function takeToken() {
  const url = new URL(location.href);
  const told = url.searchParams.get('token');
  if (told === null) return;
  url.searchParams.delete('token');
  history.replaceState({ token: told }, '', url);
}

function show() {
  leave();
  shown = location.pathname;
  token = history.state?.token ?? null;
  const api = new Api(token);
  const [, id] = /^\/ui\/runs\/([^/]+)\/?$/.exec(location.pathname) ?? [];
  const context = { api, corner, announcer, navigate };
  crumb.replaceChildren();
  if (id === undefined) {
    leave = runsPage(root, context);
    return;
  }
  const name = decoded(id);
  const slash = h('span', { 'aria-hidden': 'true' }, '/');
  crumb.replaceChildren(h('a', { href: '/ui/' }, 'Runs'), slash, h('code', {}, name));
  leave = runPage(root, { ...context, id: name });
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Go to another page of ours. withToken: with which it is to be read. */
function navigate(path, withToken = token) {
  history.pushState(withToken === null ? null : { token: withToken }, '', path);
  show();
  scrollTo(0, 0);
  root.focus({ preventScroll: true });
}

document.addEventListener('click', (click) => {
  const link = click.target.closest('a[href^="/ui/"]');
  const isPlain = click.button === 0 && !click.metaKey && !click.ctrlKey && !click.shiftKey && !click.altKey;
  if (!link || !isPlain || click.defaultPrevented) return;
  click.preventDefault();
  navigate(link.getAttribute('href'));
});
addEventListener('popstate', () => {
  if (location.pathname !== shown) show();
  else if (token !== null && history.state === null) history.replaceState({ token }, ''); // a step to an anchor
});

takeToken();
show();
