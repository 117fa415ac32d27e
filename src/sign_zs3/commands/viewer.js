// Draws an image with the colours of its classes, and answers pointer, keys and controls. `props.value` is what
// Page.label returns: pictures as addresses, of one size, and the classes; Page.preview has the picture alone.
const find = name => element.querySelector(name);
const canvas = find('canvas'), here = find('.here'), mark = find('.mark'), slider = find('.opacity input');
const context = canvas.getContext('2d', {willReadFrequently: true});
let picture, labels, sure, edges, classes = [], hidden = new Set(), view = 'classes', place = null, turn = 0;

// Matplotlib's inferno at 0, 1/8 ... 1, as the panels have it
const HEAT = [[0, 0, 4], [32, 12, 74], [87, 16, 110], [137, 34, 106], [188, 55, 84], [228, 89, 50], [249, 142, 9],
  [246, 201, 49], [252, 255, 164]];
find('.scale b').style.background = 'linear-gradient(to right, ' + HEAT.map(c => 'rgb(' + c + ')').join() + ')';

function heat(percent) {
  const at = percent / 100 * 8, low = Math.min(7, Math.floor(at));
  return HEAT[low].map((value, k) => value + (HEAT[low + 1][k] - value) * (at - low));
}

async function pixels(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const sheet = document.createElement('canvas');
  sheet.width = image.naturalWidth;
  sheet.height = image.naturalHeight;
  const made = sheet.getContext('2d');
  made.drawImage(image, 0, 0);
  return made.getImageData(0, 0, sheet.width, sheet.height);
}

// every fourth number of a grey picture
const grey = image => Uint8Array.from({length: image.data.length / 4}, (_, i) => image.data[4 * i]);

function edgesOf(map, width) {
  const found = new Uint8Array(map.length);
  for (let i = 0; i < map.length; i++) {
    if ((i + 1) % width && map[i] !== map[i + 1]) found[i] = found[i + 1] = 1;
    if (i + width < map.length && map[i] !== map[i + width]) found[i] = found[i + width] = 1;
  }
  return found;
}

function draw() {
  if (!picture) return;
  const out = new ImageData(new Uint8ClampedArray(picture.data), picture.width), data = out.data;
  const opacity = slider.value / 100, colours = [], heats = [];
  for (const one of classes) if (!one.clear && !hidden.has(one.index)) colours[one.index] = one.colour;
  for (let percent = 0; percent <= 100; percent++) heats.push(heat(percent));
  if (labels && view !== 'image') {
    for (let i = 0; i < labels.length; i++) {
      const colour = view === 'confidence' ? heats[sure[i]] : colours[labels[i]];
      if (!colour) continue;
      const part = view === 'confidence' || (edges[i] && opacity) ? 1 : opacity;
      for (let k = 0; k < 3; k++) data[4 * i + k] += (colour[k] - data[4 * i + k]) * part;
    }
  }
  context.putImageData(out, 0, 0);
}

// pixels of the page for a pixel of the picture, which lies at the upper left of a box that may be wider
const scale = () => Math.min(canvas.clientWidth / picture.width, canvas.clientHeight / picture.height);

function say() {
  here.hidden = mark.hidden = !place || !labels;
  if (here.hidden) return;
  const at = place.y * picture.width + place.x, one = classes.find(c => c.index === labels[at]);
  here.textContent = one.name + (one.unseen ? ' ★' : '') + ', ' + sure[at] + ' % sure';
  const x = (place.x + .5) * scale(), y = (place.y + .5) * scale();
  mark.style.left = x + 'px';
  mark.style.top = y + 'px';
  mark.hidden = !place.keys;
  here.style.left = x + 'px';
  here.style.top = y + 'px';
  here.style.transform = 'translate(' + (x > canvas.clientWidth / 2 ? '-100%' : '0') + ', ' + (y > 60 ? '-150%' : '80%') + ')';
}

function move(x, y, keys) {
  place = {x: Math.max(0, Math.min(picture.width - 1, x)), y: Math.max(0, Math.min(picture.height - 1, y)), keys};
  say();
}

function entry(one) {
  const item = document.createElement('li'), label = document.createElement('label'), box = document.createElement('input');
  const colour = document.createElement('i'), share = document.createElement('span');
  box.type = 'checkbox';
  box.checked = !hidden.has(one.index);
  box.onchange = () => { hidden[box.checked ? 'delete' : 'add'](one.index); draw(); };
  colour.style.background = 'rgb(' + one.colour + ')';
  share.textContent = one.share >= .001 ? (100 * one.share).toFixed(1) + ' %' : '< 0.1 %';
  label.append(box, colour, one.name + (one.unseen ? ' ★' : ''), share);
  item.append(label);
  return item;
}

async function show() {
  const value = props.value || {}, mine = ++turn;
  const made = value.picture && await Promise.all([value.picture, value.labels, value.confidence].map(s => s && pixels(s)));
  if (mine !== turn) return; // a newer one has come meanwhile
  find('.viewer').hidden = !made;
  find('.side').hidden = !(made && made[1]);
  place = picture = labels = null;
  say();
  if (!made) return;
  picture = made[0];
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.classList.toggle('enlarged', Math.max(picture.width, picture.height) <= 320);
  if (made[1]) {
    labels = grey(made[1]);
    sure = grey(made[2]);
    edges = edgesOf(labels, picture.width);
    classes = value.classes;
    // a class stays hidden while the same image is labelled again
    if (element.dataset.file !== value.file) hidden.clear();
    element.dataset.file = value.file;
    const small = classes.filter(one => !one.listed);
    find('.large').replaceChildren(...classes.filter(one => one.listed).map(entry));
    find('.small').replaceChildren(...small.map(entry));
    find('details').hidden = !small.length;
    find('summary').textContent = small.length + (small.length === 1 ? ' class' : ' classes') + ' below 1 % each';
    find('.save').href = value.index;
    find('.save').download = value.file;
    canvas.setAttribute('aria-label', value.alternative + '. Arrow keys read the class of a place.');
  }
  draw();
}

slider.value = 50;
slider.oninput = draw;
for (const one of element.querySelectorAll('.views input')) {
  one.onchange = () => {
    view = one.value;
    find('.opacity').hidden = view !== 'classes';
    find('.scale').hidden = view !== 'confidence';
    draw();
  };
}
canvas.onpointermove = canvas.onpointerdown = event => {
  if (!labels) return;
  const box = canvas.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / scale()), y = Math.floor((event.clientY - box.top) / scale());
  if (x < picture.width && y < picture.height) move(x, y, false);
  else canvas.onpointerleave();
};
canvas.onpointerleave = canvas.onblur = () => { place = null; say(); };
canvas.onfocus = () => { if (labels && canvas.matches(':focus-visible')) move(picture.width >> 1, picture.height >> 1, true); };
canvas.onkeydown = event => {
  const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!way || !labels) return;
  event.preventDefault();
  const step = Math.max(1, Math.round(picture.width / 64)), from = place || {x: picture.width >> 1, y: picture.height >> 1};
  move(from.x + step * way[0], from.y + step * way[1], true);
};
// what gradio calls its upload differs from the text that is on it, by which people who speak to their computer call it
const nameUpload = () => document.querySelector('#upload .upload-container')?.removeAttribute('aria-label');
new MutationObserver(nameUpload).observe(document.body, {childList: true, subtree: true});
watch('value', show);
show();
