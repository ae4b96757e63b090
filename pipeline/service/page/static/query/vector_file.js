/** Read an embedding from a file of numpy (`.npy`, format 1.0 to 3.0) with one vector of floating-point numbers. */

const MAGIC = '\x93NUMPY';
const TYPES = { '<f4': [4, 'getFloat32'], '<f8': [8, 'getFloat64'] };

/**
 * Read a vector.
 *
 * @param {ArrayBuffer} buffer Content of the file.
 * @returns {number[]} The numbers of the vector.
 * @throws {Error} The file has another content; the message says what is expected.
 */
export function readVector(buffer) {
  const view = new DataView(buffer);
  const magic = String.fromCharCode(...new Uint8Array(buffer, 0, Math.min(6, buffer.byteLength)));
  if (magic !== MAGIC || buffer.byteLength < 12) throw new Error('The file is not a .npy file of numpy.');
  const isFirstFormat = view.getUint8(6) === 1;
  const length = isFirstFormat ? view.getUint16(8, true) : view.getUint32(8, true);
  const start = (isFirstFormat ? 10 : 12) + length;
  const header = new TextDecoder('latin1').decode(new Uint8Array(buffer, isFirstFormat ? 10 : 12, Math.min(length, 1000)));
  const [size, method] = TYPES[header.match(/'descr': *'([^']+)'/)?.[1]] || [];
  const shape = (header.match(/'shape': *\(([\d, ]*)\)/)?.[1] || '').split(',').filter((part) => part.trim()).map(Number);
  if (!size || shape.length < 1 || shape.length > 2 || (shape.length === 2 && shape[0] !== 1)) {
    throw new Error('The file must have one vector of float32 or float64. Save it with numpy.save.');
  }
  const count = shape[shape.length - 1];
  if (start + count * size > buffer.byteLength) throw new Error('The file is incomplete. Save the vector again.');
  return Array.from({ length: count }, (_, number) => view[method](start + number * size, true));
}
