// api: calls to the server, with the token this page was opened with, and its errors as the server words them.

/** An error answer: RFC 9457's title and detail, and what to do (fix). */
export class Problem extends Error {
  constructor({ status = 0, title = '', detail = '', fix = '', retryable = false }) {
    super(detail || title || `the server answered ${status}`);
    this.status = status;
    this.fix = fix;
    this.retryable = retryable;
  }
}

export class Api {
  /** token: null where the server asks for none. */
  constructor(token) {
    this.token = token;
  }

  /** Raises Problem for an error answer, another Error when there is no answer within `seconds`. */
  async get(path, { signal, seconds = 10 } = {}) {
    const limit = AbortSignal.timeout(seconds * 1000);
    return this.#call(path, { signal: signal ? AbortSignal.any([signal, limit]) : limit });
  }

  async post(path, body) {
    return this.#call(path, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'Content-Type': 'application/json' },
      signal: AbortSignal.timeout(30_000),
    });
  }

  /** For EventSource, which can send no header. */
  withToken(path) {
    return this.token === null ? path : `${path}&token=${encodeURIComponent(this.token)}`;
  }

  async #call(path, { headers = {}, ...rest }) {
    const own = this.token === null ? {} : { Authorization: `Bearer ${this.token}` };
    const answer = await fetch(path, { headers: { ...headers, ...own }, cache: 'no-store', ...rest });
    if (answer.ok) return answer.json();
    const told = await answer.json().catch(() => ({}));
    throw new Problem({ ...told, status: answer.status });
  }
}
