// @ts-check
// A brush over a picture, by mouse, finger and keyboard. Python puts this before front-ends with a brush.

const button = (text, press) => {
  const made = keepKeys(make("button", "nb-button", text));
  made.type = "button";
  made.addEventListener("click", press);
  return made;
};
const slider = (name, most, value, moved) => {
  const label = make("label", "nb-slider");
  const range = keepKeys(make("input"));
  const shown = make("output");
  Object.assign(range, { type: "range", min: name === "brush" ? 1 : 0, max: most, step: 1, value });
  range.addEventListener("input", () => moved(+range.value));
  label.append(make("span", "", name), range, shown);
  const show = (at, text) => {
    range.value = at;
    shown.textContent = text;
    range.setAttribute("aria-valuetext", text);
  };
  return { label, show };
};
const pictureOf = (width, height, name) => {
  const canvas = Object.assign(make("canvas", "nb-picture"), { width, height });
  if (name) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", name);
  }
  return canvas;
};

// The colour over a pixel, for a mask value 0 to 255.
const ORANGE = (value) => [255, 140, 0, value / 2];
const WHITE = (value) => [255, 255, 255, value / 2];

/**
 * The board: a picture under a brush.
 * @param {{ size: number[], name: string, report: (text: string) => void, apply: (mask: Uint8ClampedArray) => void }} given
 *   `size`: height and width, pixels; `name` of the picture; `apply` gets the mask of each stroke.
 */
function brushOn({ size: [height, width], name, report, apply }) {
  let size = Math.max(1, Math.round(width / 3)); // of the brush, pixels
  let at = [width / 2, height / 2]; // the brush's centre
  let mask = null; // of the current stroke
  let colour = ORANGE;
  let hole = null; // a value per pixel, positive in the hole

  const board = keepKeys(make("div", "nb-board"));
  board.tabIndex = 0;
  board.setAttribute("role", "application");
  board.setAttribute("aria-label", "canvas: arrow keys move the brush, Enter paints, plus and minus change its size");
  board.style.aspectRatio = `${width} / ${height}`;
  const picture = pictureOf(width, height, name);
  const cover = pictureOf(width, height, "");
  cover.classList.add("nb-cover");
  cover.setAttribute("aria-hidden", "true");
  board.append(picture, cover);

  // One soft pixel at the edge; a stroke is the maximum over the brush's positions.
  /** @type {(into: Uint8ClampedArray, at: number[]) => Uint8ClampedArray} */
  const stamp = (into, [x, y]) => {
    for (let row = 0; row < height; row++)
      for (let column = 0; column < width; column++) {
        const far = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        const value = 255 * Math.min(1, Math.max(0, size / 2 + 0.5 - far));
        into[row * width + column] = Math.max(into[row * width + column], value);
      }
    return into;
  };
  const line = (from, to) => {
    const count = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let k = 1; k <= count; k++)
      stamp(mask, [0, 1].map((i) => from[i] + ((to[i] - from[i]) * k) / count));
  };
  const outline = () => {
    const context = cover.getContext("2d");
    const shown = mask ?? stamp(new Uint8ClampedArray(width * height), at);
    const pixels = context.createImageData(width, height);
    shown.forEach((value, i) => {
      const hidden = hole?.[i] ? [128, 128, 128, 255] : [0, 0, 0, 0];
      pixels.data.set(value ? colour(hole?.[i] ? 2 * value : value) : hidden, 4 * i);
    });
    context.putImageData(pixels, 0, 0);
  };
  const end = () => {
    const sent = mask;
    mask = null;
    outline();
    if (!sent.some((value) => value > 0)) return report("the brush was outside the picture");
    apply(sent);
  };
  const place = (event) => {
    const box = board.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  };
  const begin = () => (mask = stamp(new Uint8ClampedArray(width * height), at));
  board.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    board.focus();
    board.setPointerCapture(event.pointerId);
    at = place(event);
    begin();
    outline();
    event.preventDefault();
  });
  board.addEventListener("pointermove", (event) => {
    const next = place(event);
    if (mask) line(at, next);
    at = next;
    outline();
  });
  board.addEventListener("pointerup", () => mask && end());
  board.addEventListener("pointercancel", () => {
    mask = null;
    outline();
  });
  const resize = (value) => {
    size = Math.max(1, Math.min(width, value));
    control.show(size, `${size} px`);
    outline();
  };
  board.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 4 : 1;
    const way = { ArrowRight: [far, 0], ArrowLeft: [-far, 0], ArrowDown: [0, far], ArrowUp: [0, -far] }[event.key];
    if (way) {
      at = [Math.max(0, Math.min(width, at[0] + way[0])), Math.max(0, Math.min(height, at[1] + way[1]))];
      outline();
      report(`brush at column ${Math.round(at[0])}, row ${Math.round(at[1])}`);
    } else if (event.key === "Enter" || event.key === " ") [begin(), end()];
    else if (event.key === "+" || event.key === "-") [resize(size + (event.key === "+" ? 1 : -1)), report(`${size} pixels wide`)];
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const control = slider("brush", width, size, resize);
  resize(size);
  return {
    board,
    picture,
    control: control.label,
    erase: (on) => {
      colour = on ? WHITE : ORANGE;
      outline();
    },
    hide: (covered) => {
      hole = covered;
      outline();
    },
  };
}
