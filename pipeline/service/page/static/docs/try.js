/** Sends requests from the page that describes the API, and shows each answer below its form. */

const ROOT = new URL('../../', document.baseURI);
const MAX_SHOWN = 20_000; // characters of an answer

/** Return the address of the request of a form. */
function makeAddress(form) {
  let path = form.dataset.path;
  const query = new URLSearchParams();
  for (const field of form.querySelectorAll('[data-in]')) {
    const value = field.value.trim();
    if (field.dataset.in === 'path') {
      path = path.replace(`{${field.name}}`, value.split('/').map(encodeURIComponent).join('/'));
    } else if (value) {
      query.append(field.name, value);
    }
  }
  const address = new URL(path.slice(1), ROOT);
  address.search = query.toString();
  return address;
}

/** Return the options of `fetch` for a form: the photo itself is the body, as `curl --data-binary` sends it. */
function makeOptions(form) {
  const body = form.querySelector('textarea[name=body]');
  const photo = form.querySelector('input[type=file]');
  if (photo) {
    return { method: 'POST', body: photo.files[0], headers: { 'Content-Type': 'application/octet-stream' } };
  }
  if (body) {
    return { method: 'POST', body: body.value, headers: { 'Content-Type': 'application/json' } };
  }
  return { method: form.dataset.method };
}

/** Show the media of an answer: an image as an image, JSON with line breaks, other texts as they are. */
async function makeContent(answer) {
  const type = answer.headers.get('Content-Type') ?? '';
  if (type.startsWith('image/')) {
    const image = document.createElement('img');
    image.src = URL.createObjectURL(await answer.blob());
    image.alt = 'the image of the answer';
    image.onload = () => URL.revokeObjectURL(image.src);
    return image;
  }
  let text = await answer.text();
  if (type.includes('json')) {
    const value = JSON.parse(text);
    fillIds(value);
    text = JSON.stringify(value, null, 2);
  }
  const content = document.createElement('pre');
  content.textContent = text.length > MAX_SHOWN ? `${text.slice(0, MAX_SHOWN)}\n…` : text;
  return content;
}

/** Put the id of the first hit of an answer into the empty fields of ids, so that its image can be asked for next. */
function fillIds(value) {
  const hits = value.hits ?? value.answers?.flatMap((answer) => answer.hits) ?? [];
  for (const field of document.querySelectorAll('input[data-in=path]')) {
    field.value ||= hits[0]?.image_id ?? '';
  }
}

async function send(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const output = form.nextElementSibling;
  const button = form.querySelector('button');
  const line = document.createElement('p');
  button.disabled = true;
  output.replaceChildren('Waiting for the answer …');
  try {
    const address = makeAddress(form);
    const start = performance.now();
    const answer = await fetch(address, makeOptions(form));
    const content = await makeContent(answer);
    const milliseconds = Math.round(performance.now() - start);
    const type = answer.headers.get('Content-Type') ?? 'no content';
    line.textContent = `${address.pathname}${address.search} — status ${answer.status}, ${type}, ${milliseconds} ms`;
    output.replaceChildren(line, content);
  } catch (error) {
    output.replaceChildren(`There is no answer: ${error.message}. Is the service still running?`);
  } finally {
    button.disabled = false;
  }
}

for (const form of document.querySelectorAll('form.try')) {
  form.addEventListener('submit', send);
  form.querySelector('select.examples')?.addEventListener('change', (event) => {
    form.querySelector('textarea[name=body]').value = event.target.value;
  });
  form.hidden = false;
}
