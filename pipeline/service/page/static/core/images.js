/** Images that are loaded when they come near the screen, with the token where the service needs one. */

import { loadBlob, thumbnailUrl } from './api.js';
import { h } from './dom.js';
import { getToken } from './token.js';

const WIDTHS = [240, 480]; // few, so that most thumbnails are made once; the second one is for screens of high density
const MARGIN = '600px'; // around the screen in which images are loaded

/**
 * Make the thumbnail of an image.
 *
 * @param {string} id Id of the image.
 * @param {string} alt What it shows.
 * @param {string} version Version of the index.
 */
export function makeThumbnail(id, alt, version) {
  const image = h('img', { alt, loading: 'lazy', decoding: 'async' });
  image.addEventListener('error', () => image.classList.add('missing'));
  if (getToken()) {
    showLater(image, thumbnailUrl(id, WIDTHS[devicePixelRatio > 1 ? 1 : 0], version));
  } else {
    image.srcset = WIDTHS.map((width, number) => `${thumbnailUrl(id, width, version)} ${number + 1}x`).join(', ');
    image.src = thumbnailUrl(id, WIDTHS[0], version);
  }
  return image;
}

/** Show a file of the API in an image now. */
export async function showImage(image, url) {
  if (!getToken()) {
    image.src = url;
    return;
  }
  try {
    const address = URL.createObjectURL(await loadBlob(url));
    image.addEventListener('load', () => URL.revokeObjectURL(address), { once: true });
    image.src = address;
  } catch {
    image.classList.add('missing');
  }
}

const waiting = new WeakMap(); // addresses of images that are not near the screen yet
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    observer.unobserve(entry.target);
    showImage(entry.target, waiting.get(entry.target));
  }
}, { rootMargin: MARGIN });

/** Load an image when it comes near the screen: an `img` cannot send a token by itself. */
function showLater(image, url) {
  waiting.set(image, url);
  observer.observe(image);
}
