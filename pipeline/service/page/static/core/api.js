/** Requests to the JSON API of the service, see `api/v1/docs`. */

import { askForToken, getToken } from './token.js';

const ROOT = 'api/v1/';
const MAX_RETRIES = 3; // of a request that the service is too busy for (status 503)

/** An error of the service, or of the way to it; `status` is 0 if the service did not answer. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Search with queries; `body` is that of `POST /api/v1/search`. */
export async function search(body, signal) {
  const headers = { 'Content-Type': 'application/json' };
  return (await send('search', { method: 'POST', body: JSON.stringify(body), headers, signal })).json();
}

/** Return what is indexed, and examples. */
export async function getOverview(version) {
  return (await send(`overview?${toParameters({ version })}`)).json();
}

/** Return the columns of the metadata of `images` or `captions`. */
export async function getColumns(target, version) {
  return (await send(`columns?${toParameters({ for: target, version })}`)).json();
}

/** Return the versions of the index. */
export async function getVersions() {
  return (await send('versions')).json();
}

/** Return the metadata of an image, its captions and its regions. */
export async function getItem(id, version, signal) {
  return (await send(`items/${encodeURIComponent(id)}?${toParameters({ version })}`, { signal })).json();
}

/** Return the address of a small JPEG of an image, at most `size` pixels wide. */
export function thumbnailUrl(id, size, version) {
  return `${ROOT}thumbnails/${encodeURIComponent(id)}?${toParameters({ size, version })}`;
}

/** Return the address of the file of an image. */
export function imageUrl(id, version) {
  return `${ROOT}images/${encodeURIComponent(id)}?${toParameters({ version })}`;
}

/** Load a file of the API, such as an image, with the token. Returns a Blob. */
export async function loadBlob(url) {
  return (await send(url.slice(ROOT.length))).blob();
}

function toParameters(values) {
  const used = Object.entries(values).filter(([, value]) => value !== '' && value !== null && value !== undefined);
  return new URLSearchParams(used).toString();
}

/** Send a request. A missing token is asked for, and a request that the service is too busy for is repeated. */
async function send(path, options = {}) {
  for (let attempt = 0; ; attempt += 1) {
    const token = getToken();
    const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
    let response;
    try {
      response = await fetch(ROOT + path, { ...options, headers });
    } catch (error) {
      if (error.name === 'AbortError') throw error;
      throw new ApiError(0, 'The service cannot be reached. Check that it runs, then try again.');
    }
    if (response.ok) return response;
    if (response.status === 401) {
      await askForToken(token);
    } else if (response.status === 503 && attempt < MAX_RETRIES) {
      await pause(1000 * Number(response.headers.get('Retry-After') || 1), options.signal);
    } else {
      throw new ApiError(response.status, await describe(response));
    }
  }
}

async function describe(response) {
  try {
    const problem = await response.json();
    const details = (problem.errors || []).map((error) => error.detail);
    return details.length ? details.join(' ') : problem.detail;
  } catch {
    return `The service answers with status ${response.status}.`;
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
