/**
 * Relevance feedback: hits are marked as good or bad, then the query moves towards the good ones and away from the bad
 * ones. Marks take effect together, so that the list does not change under the pointer.
 */

import { byId, h } from '../core/dom.js';
import { showError } from '../core/messages.js';
import { state, update } from '../core/state.js';
import { countFreeParts, MAX_PARTS } from '../query/parts.js';

const marks = { good: new Set(), bad: new Set() }; // ids of images, not used by the query yet
const LABELS = { good: ['✓', 'Good hit'], bad: ['✗', 'Bad hit'] };

/** Listen for the buttons of the bar of marks. */
export function listenForMarks() {
  byId('refine').addEventListener('click', () => {
    update({ good: merge('good', 'bad'), bad: merge('bad', 'good'), open: '' });
  });
  byId('clear-marks').addEventListener('click', clearMarks);
}

/** Remove all marks that are not used yet. */
export function clearMarks() {
  marks.good.clear();
  marks.bad.clear();
  showMarks();
}

/** Make the button that marks an image, or removes its mark; `name` is `good` or `bad`. */
export function makeMarkButton(id, name, description) {
  const [text, label] = LABELS[name];
  return h('button', {
    type: 'button',
    class: 'small mark',
    text,
    title: label,
    'aria-label': `${label}: ${description}`,
    'aria-pressed': String(marks[name].has(id)),
    'data-mark': name,
    'data-id-of-mark': id,
    on: { click: () => toggle(id, name) },
  });
}

function toggle(id, name) {
  if (!marks[name].delete(id)) {
    if (countFreeParts(state) <= marks.good.size + marks.bad.size) {
      showError(`A search has at most ${MAX_PARTS} parts, with the marked hits. Remove one first.`);
      return;
    }
    marks.good.delete(id);
    marks.bad.delete(id);
    marks[name].add(id);
  }
  showMarks();
}

/** Return the ids that the query has with this mark, and those of the new marks; a new mark replaces the opposite. */
function merge(name, opposite) {
  return [...new Set([...state[name].filter((id) => !marks[opposite].has(id)), ...marks[name]])];
}

function showMarks() {
  for (const button of document.querySelectorAll('[data-mark]')) {
    const isMarked = marks[button.dataset.mark].has(button.dataset.idOfMark);
    button.setAttribute('aria-pressed', String(isMarked));
    if (button.dataset.mark === 'good') button.closest('.card')?.classList.toggle('relevant', isMarked);
  }
  byId('marks').hidden = !(marks.good.size + marks.bad.size);
  byId('marks-text').textContent = `Marked: ${marks.good.size} good, ${marks.bad.size} bad.`;
}
