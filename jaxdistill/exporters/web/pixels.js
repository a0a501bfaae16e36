// Resizing as jaxdistill does it: bilinear, by the centres of pixels, without antialiasing.
// An image is an ImageData; a mask is an array of bytes, 255 is a person.

/** Returns, along one axis, the two old pixels of each new one, and the share of the second. */
function axis(from, to) {
  const low = new Int32Array(to), high = new Int32Array(to), share = new Float32Array(to);
  for (let i = 0; i < to; i++) {
    const at = Math.fround((i + 0.5) * (from / to) - 0.5), before = Math.floor(at);
    low[i] = Math.min(Math.max(before, 0), from - 1);
    high[i] = Math.min(Math.max(before + 1, 0), from - 1);
    share[i] = at - before;
  }
  return { low, high, share };
}

/** Returns the weights of both pixels of `axis` in 1/2048; one half is rounded to even. */
function weights(share) {
  const fixed = (value) => {
    const rounded = Math.round(2048 * value);
    return rounded - 2048 * value === 0.5 ? rounded - (rounded & 1) : rounded;
  };
  return [Int32Array.from(share, (b) => fixed(Math.fround(1 - b))), Int32Array.from(share, fixed)];
}

/** Returns the RGB bytes of an image at another size: the network's input. The arithmetic is that of
 * OpenCV, so that the network gets the same bytes as in `predict`. */
export function resizedRgb({ data, width, height }, rows, columns) {
  const x = axis(width, columns), y = axis(height, rows);
  const [a, b] = weights(x.share), [c, d] = weights(y.share);
  const rgb = new Uint8Array(rows * columns * 3);
  let at = 0;
  for (let i = 0; i < rows; i++) {
    const top = 4 * y.low[i] * width, bottom = 4 * y.high[i] * width;
    for (let j = 0; j < columns; j++) {
      const left = 4 * x.low[j], right = 4 * x.high[j];
      for (let channel = 0; channel < 3; channel++) {
        const above = data[top + left + channel] * a[j] + data[top + right + channel] * b[j];
        const below = data[bottom + left + channel] * a[j] + data[bottom + right + channel] * b[j];
        rgb[at++] = (((c[i] * (above >> 4)) >> 16) + ((d[i] * (below >> 4)) >> 16) + 2) >> 2;
      }
    }
  }
  return rgb;
}

// The sigmoid, as bytes, of logits between -LIMIT and LIMIT. The border of two entries is at zero,
// so that a byte is above 127 exactly where the logit is positive.
const LIMIT = 12, ENTRIES = 4096;
const SIGMOID = Uint8Array.from({ length: ENTRIES }, (_, i) =>
  Math.round(255 / (1 + Math.exp(LIMIT - (2 * LIMIT * (i + 0.5)) / ENTRIES))));

/** Returns the probabilities, as bytes, at the size of the image. Logits are resized, not
 * probabilities: their zero is the outline, which stays smooth. */
export function fullMask(logits, [rows, columns], width, height) {
  const { low, high, share } = axis(columns, width), y = axis(rows, height);
  const mask = new Uint8Array(width * height), line = new Float32Array(columns);
  const scale = ENTRIES / (2 * LIMIT);
  for (let i = 0, at = 0; i < height; i++) {
    const top = y.low[i] * columns, bottom = y.high[i] * columns, down = y.share[i];
    for (let j = 0; j < columns; j++) {
      const a = logits[top + j];
      line[j] = (a + (logits[bottom + j] - a) * down + LIMIT) * scale;
    }
    for (let j = 0; j < width; j++) {
      const a = line[low[j]], entry = a + (line[high[j]] - a) * share[j];
      mask[at++] = SIGMOID[entry < 0 ? 0 : entry < ENTRIES ? entry | 0 : ENTRIES - 1];
    }
  }
  return mask;
}
