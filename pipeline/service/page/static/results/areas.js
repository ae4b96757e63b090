/** Areas of an image that a user draws, or types, to search for them. */

import { h, svg } from '../core/dom.js';

const MIN_SIDE = 8; // pixels of the screen; a shorter move is a click

/**
 * Let a user draw a rectangle over an image.
 *
 * @param {SVGElement} overlay What lies over the image; its units are pixels of the image.
 * @param {number[]} size Width and height of the image in pixels.
 * @param {Function} onSearch Called with the box x1, y1, x2, y2.
 * @returns {HTMLElement} A form with the box, which works without a pointer too.
 */
export function listenForAreas(overlay, size, onSearch) {
  const input = h('input', { id: 'area', placeholder: `0, 0, ${size[0]}, ${size[1]}`, inputmode: 'numeric', autocomplete: 'off' });
  const form = h('form', { class: 'row' },
    h('label', { for: 'area', text: 'Draw on the image, or enter x1, y1, x2, y2 in pixels' }),
    input, h('button', { text: 'Search this area' }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const box = input.value.split(',').map(Number);
    const isBox = box.length === 4 && box.every(Number.isFinite) && box[0] < box[2] && box[1] < box[3];
    input.setCustomValidity(isBox ? '' : 'Enter four numbers: left, top, right, bottom.');
    if (isBox) onSearch(box);
    else input.reportValidity();
  });
  input.addEventListener('input', () => input.setCustomValidity(''));
  const area = svg('rect', { class: 'area', width: 0, height: 0 });
  overlay.append(area);
  let start = null;
  let isDrawn = false;
  overlay.addEventListener('pointerdown', (event) => {
    start = event;
    isDrawn = false;
    drawBox(area, [0, 0, 0, 0]);
    event.preventDefault();
  });
  overlay.addEventListener('pointermove', (event) => {
    if (!start) return;
    if (!isDrawn && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) < MIN_SIDE) return;
    isDrawn = true;
    overlay.setPointerCapture(event.pointerId); // only now: a click must reach the region below the pointer
    drawBox(area, findBox(overlay, size, start, event));
  });
  overlay.addEventListener('pointerup', (event) => {
    if (start && isDrawn) {
      input.value = findBox(overlay, size, start, event).map(Math.round).join(', ');
      form.querySelector('button').focus();
    }
    start = null;
  });
  return form;
}

function findBox(overlay, [width, height], first, second) {
  const frame = overlay.getBoundingClientRect();
  const x = [first, second].map(({ clientX }) => clamp((clientX - frame.left) / frame.width) * width);
  const y = [first, second].map(({ clientY }) => clamp((clientY - frame.top) / frame.height) * height);
  return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
}

function drawBox(area, [x1, y1, x2, y2]) {
  for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) area.setAttribute(name, value);
}

function clamp(fraction) {
  return Math.min(1, Math.max(0, fraction));
}
