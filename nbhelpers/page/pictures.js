// @ts-check
// Pictures as numbers: those that the page brings along, one's own, noise, and changes of one length.

/** @type {ImageBitmapOptions} */
const EXACT = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
/** @type {(width: number, height: number) => [OffscreenCanvas, OffscreenCanvasRenderingContext2D]} */
const canvasOf = (width, height) => {
  const canvas = new OffscreenCanvas(Math.max(1, Math.round(width)), Math.max(1, Math.round(height)));
  return [canvas, canvas.getContext("2d", { willReadFrequently: true })];
};
// Red, green and blue on [0, 1], of a part of an image.
function numbersOf(bitmap, [height, width], left = 0, top = 0) {
  const [, context] = canvasOf(width, height);
  context.drawImage(bitmap, -left, -top);
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Float32Array(3 * width * height);
  for (let k = 0; k < data.length / 4; k++)
    for (let c = 0; c < 3; c++) values[3 * k + c] = data[4 * k + c] / 255;
  return values;
}
// For the screen: clamped and rounded by the array itself.
function imageOf(values, [height, width], k = 0) {
  const image = new ImageData(width, height);
  const each = 3 * height * width;
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = values[k * each + 3 * i + c] * 255;
    image.data[4 * i + 3] = 255;
  }
  return image;
}
// The pictures of a sheet, row by row. Their numbers are read at first use: all of them take 0.3 s.
async function sheetPictures(text, [height, width], abouts) {
  const bitmap = await createImageBitmap(new Blob([bytesOf(text)]), EXACT);
  const [, context] = canvasOf(bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const columns = Math.round(bitmap.width / width);
  const read = (n) => {
    const values = new Float32Array(3 * height * width);
    const corner = Math.floor(n / columns) * height * bitmap.width + (n % columns) * width;
    for (let k = 0; k < height * width; k++) {
      const from = 4 * (corner + Math.floor(k / width) * bitmap.width + (k % width));
      for (let c = 0; c < 3; c++) values[3 * k + c] = data[from + c] / 255;
    }
    return values;
  };
  return abouts.map((about, n) => {
    let values;
    return { ...about, get values() { return (values ??= read(n)); } };
  });
}

// A picture of one's own: its middle, on white, halved again and again so that every pixel counts.
async function ownPicture(file, [height, width]) {
  const bitmap = await createImageBitmap(file);
  const share = Math.min(bitmap.width / width, bitmap.height / height);
  const [w, h] = [width * share, height * share];
  let halvings = Math.max(0, Math.floor(Math.log2(share)));
  let [now, context] = canvasOf(width * 2 ** halvings, height * 2 ** halvings);
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, now.width, now.height);
  const [left, top] = [(bitmap.width - w) / 2, (bitmap.height - h) / 2];
  context.drawImage(bitmap, left, top, w, h, 0, 0, now.width, now.height);
  const cut = Math.abs(bitmap.width - w) > 1 || Math.abs(bitmap.height - h) > 1;
  bitmap.close();
  while (halvings-- > 0) {
    const [next, smaller] = canvasOf(now.width / 2, now.height / 2);
    smaller.drawImage(now, 0, 0, next.width, next.height);
    now = next;
  }
  return { values: numbersOf(now, [height, width]), cut };
}
async function pngOf(image) {
  const [canvas, context] = canvasOf(image.width, image.height);
  context.putImageData(image, 0, 0);
  return new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
}

// --- numbers by a seed ---

function generator(seed) {
  let state = (seed * 2654435761 + 1) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}
const normals = (size, seed) => {
  const uniform = generator(seed);
  const one = () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return Float32Array.from({ length: size }, one);
};
const clamped = (value) => Math.min(1, Math.max(0, value));
// Dim grey noise like `nb.noise`'s; `faint` is the share of its contrast.
const noise = (size, seed, faint = 1) => normals(size, seed).map((z) => clamped(0.5 + (faint * z) / 20));
function shuffled(list, uniform) {
  const all = [...list];
  for (let k = all.length - 1; k > 0; k--) {
    const j = Math.floor(uniform() * (k + 1));
    [all[k], all[j]] = [all[j], all[k]];
  }
  return all;
}

// --- changes of a picture, all of one L2 length ---

const lengthOf = (one, other) => Math.sqrt(one.reduce((sum, value, k) => sum + (value - other[k]) ** 2, 0));
const joined = (...parts) => {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
};
// The picture moved by rows and columns, its rim repeated.
function moved(values, [height, width], down, right) {
  const found = new Float32Array(values.length);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const row = Math.min(height - 1, Math.max(0, y + down));
      const from = 3 * (row * width + Math.min(width - 1, Math.max(0, x + right)));
      for (let c = 0; c < 3; c++) found[3 * (y * width + x) + c] = values[from + c];
    }
  return found;
}
const CHANGES = {
  shift: (x, sides, s) => moved(x, sides, 0, Math.round((s * sides[1]) / 4)),
  blur(x, sides, s) {
    let now = x;
    for (let k = 0; k < Math.round(40 * s * s) + 1; k++) {
      const near = [[0, 1], [0, -1], [1, 0], [-1, 0]].map((way) => moved(now, sides, ...way));
      now = now.map((value, i) => (value + near[0][i] + near[1][i] + near[2][i] + near[3][i]) / 5);
    }
    return now;
  },
  noise: (x, sides, s) => normals(x.length, 1).map((z, k) => clamped(x[k] + 0.3 * s * z)),
  contrast(x, sides, s) {
    const mean = x.reduce((a, b) => a + b, 0) / x.length;
    return x.map((value) => value + 0.9 * s * (mean - value));
  },
  hue(x, sides, s) {
    const [cos, sin] = [Math.cos(Math.PI * s), Math.sin(Math.PI * s)];
    const turn = [0, 1, 2].map((k) => (1 - cos) / 3 + [cos, -sin / Math.sqrt(3), sin / Math.sqrt(3)][k]);
    return x.map((_, k) => {
      const [pixel, c] = [3 * Math.floor(k / 3), k % 3];
      return clamped([0, 1, 2].reduce((sum, i) => sum + turn[(i - c + 3) % 3] * x[pixel + i], 0));
    });
  },
  cover: (x, [height, width], s) =>
    x.map((value, k) => {
      const pixel = Math.floor(k / 3);
      const far = Math.max(Math.abs(Math.floor(pixel / width) - height / 2), Math.abs((pixel % width) - width / 2));
      return far < 0.3 * s * height ? 0.5 : value;
    }),
};
// The first strength that moves the picture so far, blended to the exact length.
function changedTo(picture, sides, kind, length) {
  for (let k = 1; ; k++) {
    const found = CHANGES[kind](picture, sides, k / 12);
    const far = lengthOf(found, picture);
    if (far < length && k < 12) continue;
    const share = Math.min(1, length / Math.max(far, 1e-9));
    return found.map((value, i) => picture[i] + share * (value - picture[i]));
  }
}
