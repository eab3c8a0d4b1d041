// @ts-check
// One network on one processor, in a worker of its own, so that the page never waits. It answers
// three questions: "look" (logits, distances and features of images), "descend" (frames of a
// descent), "stop". Images are Float32Arrays of (n, height, width, channels).

const FRAME = 100; // ms between two frames; drawing takes from the computing where cores are few
let prepared; // WebAssembly, or false
let network;
let [left, stopped] = [0, 0]; // runs up to `left` are given up; run `stopped` ends with what it has
let turn = Promise.resolve();
let lost = ""; // why the graphics card computes no more

// Lets messages in. A timer would wait for 4 ms each time.
const channel = new MessageChannel();
const pause = () =>
  new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(0);
  });

const tensorOf = (values) => {
  const shape = [...network.sides, network.mean.shape[0]];
  return tf.tensor(values, [values.length / shape.reduce((a, b) => a * b, 1), ...shape]);
};

// The share of each of h × w squares of the picture that a mask covers, as `region_shares`.
function sharesOf(mask, [height, width], [h, w]) {
  const edges = (k, from, to) => [Math.floor((k * from) / to), Math.ceil(((k + 1) * from) / to)];
  const found = new Float32Array(h * w);
  for (let i = 0; i < h; i++)
    for (let j = 0; j < w; j++) {
      const [[top, bottom], [left, right]] = [edges(i, height, h), edges(j, width, w)];
      let sum = 0;
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) sum += mask[y * width + x];
      found[i * w + j] = sum / ((bottom - top) * (right - left));
    }
  return found;
}

// What the representation has of a mask: of its mean, or of every position.
function masked(goal, objective, mean) {
  const [, h, w] = network.shape;
  const shares = sharesOf(goal.mask, network.sides, [h, w]);
  const all = mean ? shares.reduce((a, b) => a + b, 0) : shares.reduce((a, b) => Math.max(a, b), 0);
  const weights = tf.tensor(shares.map((share) => share / (all || 1)), [1, h, w, 1]);
  return [(mean ? Engine.region : Engine.weighted)(weights, objective), weights];
}

// The objective of a goal, its place, and what to dispose of.
const GOALS = {
  activate(goal) {
    const raised = Engine.activate(goal.components, goal.ceilings);
    if (!goal.mask || network.shape[1] * network.shape[2] === 1) return [raised, []];
    const [objective, weights] = masked(goal, raised, true);
    return [objective, [weights]];
  },
  match(goal) {
    const [objective, kept] = tf.tidy(() => {
      const found = network.at(goal.place, tensorOf(goal.images));
      const weights = goal.mask ? masked(goal, null, false)[1] : null;
      const target = weights ? tf.mul(found, weights) : found;
      const rows = goal.amounts ? mixed(target, goal.amounts) : target;
      return [Engine.match(rows), weights ? [tf.keep(weights)] : []];
    });
    return [kept.length ? Engine.weighted(kept[0], objective) : objective, kept];
  },
  leave: (goal) => [tf.tidy(() => Engine.leave(network.at(goal.place, tensorOf(goal.images)))), []],
};
// From the first row to the last.
function mixed(features, amounts) {
  const flat = tf.reshape(features, [features.shape[0], -1]);
  const [n, width] = flat.shape;
  const [from, to] = [0, n - 1].map((k) => tf.slice(flat, [k, 0], [1, width]));
  return tf.add(from, tf.mul(tf.tensor2d(amounts, [amounts.length, 1]), tf.sub(to, from)));
}

async function descend({ id, start, goal, steps, size, full, radius, center, mask }) {
  const begin = tensorOf(start);
  const [objective, kept] = GOALS[goal.kind](goal);
  const around = center && tensorOf(center);
  const free = mask && tf.tensor(mask, [1, ...network.sides, 1]);
  const stepSize = Engine.firstStep(size, full, steps, begin.shape);
  const place = goal.mask && network.shape[1] * network.shape[2] > 1 ? "map" : goal.place;
  const run = Engine.descend(network, objective, begin, {
    place, steps, stepSize, radius, center: around, mask: free,
  });
  let shown = 0;
  try {
    for (const { images, losses, logits, ...step } of run) {
      const ends = step.index === steps || stopped === id;
      if (ends || performance.now() - shown >= FRAME) {
        const [numbers, ...others] = await Engine.read(images, losses, logits);
        const seen = { ...step, images: numbers, losses: others[0], logits: others[1] };
        postMessage({ type: ends ? "done" : "frame", id, stopped: stopped === id, ...seen });
        shown = performance.now();
      } else await losses.data(); // or the graphics card would fall behind
      if (ends) return;
      await pause();
      if (id <= left) return postMessage({ type: "left", id });
    }
  } finally {
    run.return();
    objective.dispose();
    tf.dispose([begin, around, free, ...kept].filter(Boolean));
  }
}

// Numbers of the tensors that a function makes.
async function numbersOf(make) {
  const made = tf.tidy(make);
  try {
    return await Engine.read(...made);
  } finally {
    tf.dispose(made);
  }
}

// Logits of images; with `place` their features there; with `from`, how far these are from one
// image's, in the length of its features.
async function look({ id, images, place, from }) {
  const each = network.sides[0] * network.sides[1] * network.mean.shape[0];
  const found = { logits: [], features: [], distances: [] };
  const [origin] = from ? await numbersOf(() => [network.at(place, tensorOf(from))]) : [];
  const length = origin && Math.sqrt(origin.reduce((a, b) => a + b * b, 0));
  for (let k = 0; k < images.length; k += 8 * each) {
    const [logits, features] = await numbersOf(() => {
      const part = tensorOf(images.subarray(k, k + 8 * each));
      const wanted = [network.places.logits, ...(place ? [network.places[place]] : [])];
      const values = network.values(part, wanted);
      return wanted.map((node) => values[node]);
    });
    found.logits.push(...logits);
    if (origin)
      for (let row = 0; row < features.length; row += origin.length) {
        let sum = 0;
        for (let i = 0; i < origin.length; i++) sum += (features[row + i] - origin[i]) ** 2;
        found.distances.push(Math.sqrt(sum) / length);
      }
    else if (features) found.features.push(...features);
    await pause();
    if (id <= left) return postMessage({ type: "left", id });
  }
  postMessage({ type: "done", id, ...found });
}

const answers = {
  prepare({ wasm }) {
    prepared = Engine.begin(wasm);
    prepared.catch(() => {}); // reported by `begin`
  },
  // In WebAssembly, or with `graphics` on the graphics card where that is right and faster.
  async begin({ about, graphics }) {
    let found = {};
    try {
      if (!(await prepared)) throw new Error("this browser lacks WebAssembly with SIMD");
      if (graphics) found = await Engine.accelerated(about, graphics === "wanted");
      network = found.network ?? new Engine.Network(about);
      network.shape = about.positions;
      if (graphics) watch();
    } catch (error) {
      return postMessage({ type: "missing", why: error.message });
    }
    const [head] = await Engine.read(network.head.weight);
    postMessage({ type: "ready", backend: tf.getBackend(), head, times: found.times });
  },
  request({ job }) {
    turn = turn.then(async () => {
      if (job.id <= left) return postMessage({ type: "left", id: job.id });
      try {
        await (job.goal ? descend : look)(job);
      } catch (error) {
        if (tf.getBackend() === "webgpu") lose(error.message);
        else postMessage({ type: "error", id: job.id, text: error.message });
      }
    });
  },
  stop({ id }) {
    stopped = id;
  },
  leave({ id }) {
    left = Math.max(left, id);
  },
};

// A graphics card may go at any time: a laptop wakes up, a driver starts anew, memory ends. Then
// the page sends its open requests again, to WebAssembly.
function lose(why) {
  if (!lost) postMessage({ type: "lost", why });
  lost ||= why || "no reason given";
}
function watch() {
  const { device } = tf.backend();
  device.lost.then(({ message }) => lose(message));
  device.addEventListener("uncapturederror", ({ error }) => lose(error.message));
}

onmessage = ({ data }) => answers[data.type](data);
