/** Photos and vectors of the user: dropped on the page, pasted, or chosen. They become parts of the query. */

import { byId } from '../core/dom.js';
import { showError } from '../core/messages.js';
import { countFreeParts } from './parts.js';
import { state, update } from '../core/state.js';
import { readVector } from './vector_file.js';

const MAX_BYTES = 4 << 20; // of a photo that is sent as it is: a request has at most 8 MiB in base64
const MAX_SIDE = 1600; // pixels of a larger photo, to which the service would reduce it, too
const MAX_FILES = 4; // of one search
const QUALITY = 0.92;

/** Listen for files: of the button, pasted, and dropped anywhere on the page. */
export function listenForUploads() {
  const chooser = byId('file');
  byId('upload').addEventListener('click', () => chooser.click());
  chooser.addEventListener('change', () => {
    addFiles([...chooser.files]);
    chooser.value = ''; // so that the same file can be chosen again
  });
  document.addEventListener('paste', (event) => {
    const files = [...(event.clipboardData?.files || [])];
    if (files.length) {
      event.preventDefault();
      addFiles(files);
    }
  });
  const hasFiles = (event) => event.dataTransfer?.types.includes('Files');
  document.addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.add('dropping');
  });
  document.addEventListener('dragleave', (event) => {
    if (!event.relatedTarget) document.body.classList.remove('dropping');
  });
  document.addEventListener('drop', (event) => {
    document.body.classList.remove('dropping');
    if (!hasFiles(event)) return;
    event.preventDefault();
    addFiles([...event.dataTransfer.files]);
  });
}

/** Add files to the query. Files that cannot be used are reported. */
export async function addFiles(files) {
  const parts = [];
  for (const file of files.slice(0, MAX_FILES)) {
    try {
      parts.push(await (file.name.endsWith('.npy') ? readVectorFile(file) : readPhoto(file)));
    } catch (error) {
      showError(`${file.name}: ${error.message}`);
      return;
    }
  }
  const uploads = state.parts.filter((part) => part.kind === 'photo').length + parts.length;
  if (uploads > MAX_FILES || countFreeParts(state) < parts.length) {
    showError(`A search has at most ${MAX_FILES} photos. Remove one first.`);
    return;
  }
  update({ parts: [...state.parts, ...parts], open: '' });
}

async function readVectorFile(file) {
  return { kind: 'vector', name: file.name, vector: readVector(await file.arrayBuffer()), weight: 1 };
}

/** Read a photo; a large one is reduced, which the service would do, too. */
async function readPhoto(file) {
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (file.size > MAX_BYTES) throw new Error('The browser cannot read this file. Choose a JPEG, PNG, WebP or AVIF.');
  }
  const content = file.size > MAX_BYTES ? await reduce(bitmap) : file;
  const size = bitmap === null ? null : content === file ? [bitmap.width, bitmap.height] : fit(bitmap);
  bitmap?.close();
  const preview = URL.createObjectURL(content);
  return { kind: 'photo', name: file.name || 'pasted photo', photo: await toBase64(content), preview, size, weight: 1 };
}

function fit({ width, height }) {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

function reduce(bitmap) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = fit(bitmap);
  const context = canvas.getContext('2d');
  context.imageSmoothingQuality = 'high';
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/jpeg', QUALITY));
}

async function toBase64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = '';
  for (let start = 0; start < bytes.length; start += 1 << 15) {
    text += String.fromCharCode(...bytes.subarray(start, start + (1 << 15)));
  }
  return btoa(text);
}
