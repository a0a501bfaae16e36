// What the page shows: each function returns a new ImageData from an image and its mask.

const TINT = [0, 140, 255], OPACITY = 0.45;
const BLUR = 50; // the larger side, divided by the standard deviation of the blur
const BEHIND = Float32Array.from({ length: 256 }, (_, alpha) => 1 - alpha / 255);

const canvas = new OffscreenCanvas(1, 1);
const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });

export const VIEWS = { overlay, blur, background, cutout, mask: grey };

/** The people are tinted and outlined. */
function overlay(image, mask) {
  const { width, height } = image, result = copy(image), { data } = result, [red, green, blue] = TINT;
  const step = Math.max(1, Math.round(Math.max(width, height) / 400));
  const table = Float32Array.from({ length: 256 }, (_, alpha) => (alpha * OPACITY) / 255);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const alpha = mask[at];
      if (alpha < 2) continue;
      const share = table[alpha];
      data[4 * at] += (red - data[4 * at]) * share;
      data[4 * at + 1] += (green - data[4 * at + 1]) * share;
      data[4 * at + 2] += (blue - data[4 * at + 2]) * share;
      // The border of the image is no outline.
      if (alpha > 127 && (
        (x >= step && mask[at - step] < 128) || (x + step < width && mask[at + step] < 128) ||
        (y >= step && mask[at - step * width] < 128) ||
        (y + step < height && mask[at + step * width] < 128)
      )) data.fill(255, 4 * at, 4 * at + 3);
    }
  }
  return result;
}

/** The background is out of focus. The people are left out of it, so that they cast no halo. */
function blur(image, mask) {
  const { width, height } = image, sigma = Math.max(1, Math.max(width, height) / BLUR);
  const factor = Math.max(1, Math.round(sigma / 3)); // a small image is blurred, and looks the same
  const size = [Math.ceil(height / factor), Math.ceil(width / factor)], [rows, columns] = size;
  const radius = Math.max(1, Math.round((Math.sqrt(4 * (sigma / factor) ** 2 + 1) - 1) / 2));
  const [weights, ...colours] = weightedSums(image, mask, factor, size).map((plane) => {
    for (let pass = 0; pass < 3; pass++) { // three averages come close to a Gaussian
      plane = averaged(plane, rows, columns, columns, 1, radius);
      plane = averaged(plane, columns, rows, 1, columns, radius);
    }
    return plane;
  });
  const small = new ImageData(columns, rows);
  for (let at = 0; at < weights.length; at++) {
    const weight = Math.max(weights[at], 1e-3);
    for (let c = 0; c < 3; c++) small.data[4 * at + c] = colours[c][at] / weight;
    small.data[4 * at + 3] = 255;
  }
  return background(image, mask, { backdrop: enlarged(small, factor, width, height) });
}

/** Enlarges an image in the canvas, which is faster than a script. */
function enlarged(small, factor, width, height) {
  const source = new OffscreenCanvas(small.width, small.height);
  source.getContext("2d").putImageData(small, 0, 0);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.drawImage(source, 0, 0, width / factor, height / factor, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Sums weights and weighted colours of squares of pixels; background has a weight, people none. */
function weightedSums({ data, width, height }, mask, factor, [rows, columns]) {
  const sums = Array.from({ length: 4 }, () => new Float32Array(rows * columns));
  const [weights, red, green, blue] = sums;
  const step = factor >= 4 ? 2 : 1; // a quarter of the pixels is enough
  for (let y = 0; y < height; y += step) {
    const row = Math.floor(y / factor) * columns;
    for (let x = 0; x < width; x += step) {
      const from = y * width + x, weight = 255 - mask[from];
      if (!weight) continue;
      const to = row + Math.floor(x / factor);
      weights[to] += weight;
      red[to] += data[4 * from] * weight;
      green[to] += data[4 * from + 1] * weight;
      blue[to] += data[4 * from + 2] * weight;
    }
  }
  return sums;
}

/** Averages over 2 * radius + 1 entries along lines. Outside are zeros, as weights have them too.
 * `stride` lies between the starts of lines, `step` between the entries of a line. */
function averaged(values, lines, length, stride, step, radius) {
  const result = new Float32Array(values.length), scale = 1 / (2 * radius + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * stride;
    let sum = 0;
    for (let i = 0; i < Math.min(radius, length); i++) sum += values[start + i * step];
    for (let i = 0; i < length; i++) {
      if (i + radius < length) sum += values[start + (i + radius) * step];
      result[start + i * step] = sum * scale;
      if (i >= radius) sum -= values[start + (i - radius) * step];
    }
  }
  return result;
}

/** The people stand before a colour, or before an image of the same size. */
function background(image, mask, { colour, backdrop }) {
  const result = copy(image), { data } = result, [red, green, blue] = colour ?? [];
  for (let at = 0; at < data.length; at += 4) {
    const share = BEHIND[mask[at >> 2]];
    if (!share) continue;
    data[at] += ((backdrop ? backdrop.data[at] : red) - data[at]) * share;
    data[at + 1] += ((backdrop ? backdrop.data[at + 1] : green) - data[at + 1]) * share;
    data[at + 2] += ((backdrop ? backdrop.data[at + 2] : blue) - data[at + 2]) * share;
  }
  return result;
}

/** The background is transparent. */
function cutout(image, mask) {
  const result = copy(image), { data } = result;
  for (let at = 0; at < mask.length; at++) data[4 * at + 3] = mask[at];
  return result;
}

/** The probabilities as grey levels. */
function grey(image, mask) {
  const result = new ImageData(image.width, image.height), pixels = new Uint32Array(result.data.buffer);
  for (let at = 0; at < mask.length; at++) pixels[at] = 0xff000000 | (mask[at] * 0x010101);
  return result;
}

function copy(image) {
  return new ImageData(new Uint8ClampedArray(image.data), image.width, image.height);
}
