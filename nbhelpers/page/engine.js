// @ts-check
// A network and its descent in the browser: networks/model.py, objectives.py and optimize.py on
// TensorFlow.js. Each operation has its own gradient with respect to its inputs: the library's for
// a convolution is six times slower, and wrong for strides in WebAssembly. Images are (n, h, w, c).

const Engine = (() => {
  const EPSILON = 1e-12;

  // --- convolutions -------------------------------------------------------------------------------------------------

  // Zeros between the entries of one axis: what a stride of the forward pass leaves out.
  const spread = (x, axis, step) => {
    if (step === 1) return x;
    const { shape } = x;
    const before = shape.slice(0, axis + 1).reduce((a, b) => a * b, 1);
    const after = shape.slice(axis + 1).reduce((a, b) => a * b, 1);
    const padded = tf.pad(tf.reshape(x, [before, 1, after]), [[0, 0], [0, step - 1], [0, 0]]);
    const wide = tf.reshape(padded, shape.map((size, k) => (k === axis ? size * step : size)));
    return tf.slice(wide, shape.map(() => 0), shape.map((size, k) => (k === axis ? (size - 1) * step + 1 : size)));
  };
  // Pads rows and columns; a negative number cuts off.
  /** @type {(x: any, ...sides: number[][]) => any[]} */
  const framed = (x, [top, bottom], [left, right]) => {
    const cut = [top, bottom, left, right].some((side) => side < 0);
    if (cut) {
      const [n, h, w, c] = x.shape;
      const [t, b, l, r] = [top, bottom, left, right].map((side) => Math.max(0, -side));
      x = tf.slice(x, [0, t, l, 0], [n, h - t - b, w - l - r, c]);
      [top, bottom, left, right] = [top, bottom, left, right].map((side) => Math.max(0, side));
    }
    return [x, [[0, 0], [top, bottom], [left, right], [0, 0]]];
  };
  /** @type {(x: any, kernel: any, options: any) => any} */
  const convolved = (x, kernel, { stride, frame, dilation, depthwise, bias, activation }) => {
    const options = { x, filter: kernel, strides: stride, pad: frame, dataFormat: "NHWC", dilations: dilation };
    if (depthwise) {
      const y = tf.depthwiseConv2d(x, kernel, stride, frame, "NHWC", dilation);
      return bias ? tf.add(y, bias) : y;
    }
    return tf.fused.conv2d({ ...options, bias, activation: activation ?? "linear" });
  };
  const sides = ([rows, columns]) => [[0, 0], [rows, rows], [columns, columns], [0, 0]];

  // A kernel (kh, kw, in / groups, out) as the pieces that the library computes with, and each turned by 180 degrees
  // with its channels swapped, for the way back.
  const prepared = (kernel, groups) => {
    const [rows, columns, each, out] = kernel.shape;
    const turned = (piece) => tf.transpose(tf.reverse(piece, [0, 1]), [0, 1, 3, 2]);
    if (groups === 1) {
      // By hand: the library takes 0.1 s for a small network.
      const [given, found] = [kernel.dataSync(), new Float32Array(kernel.size)];
      for (let at = 0, place = rows * columns - 1; place >= 0; place--)
        for (let o = 0; o < out; o++)
          for (let i = 0; i < each; i++) found[at++] = given[(place * each + i) * out + o];
      return { pieces: [{ kernel, turned: tf.tensor(found, [rows, columns, out, each]) }], depthwise: false };
    }
    if (each === 1 && out === groups) {
      const deep = tf.transpose(kernel, [0, 1, 3, 2]);
      return { pieces: [{ kernel: deep, turned: tf.reverse(deep, [0, 1]) }], depthwise: true };
    }
    const pieces = tf.split(kernel, groups, 3).map((piece) => ({ kernel: piece, turned: turned(piece) }));
    return { pieces, depthwise: false };
  };
  /** @type {(x: any, convolution: any, options: any) => any} */
  const forwardConv = (x, { pieces, depthwise }, { stride, padding, dilation, bias, activation }) => {
    const frame = sides(padding);
    const options = { stride, frame, dilation, depthwise };
    if (pieces.length === 1) return convolved(x, pieces[0].kernel, { ...options, bias, activation });
    const parts = tf.split(x, pieces.length, 3);
    const y = tf.concat(parts.map((part, k) => convolved(part, pieces[k].kernel, options)), 3);
    return bias ? tf.add(y, bias) : y;
  };
  const backwardConv = (dy, x, { pieces, depthwise }, { stride, padding, dilation }) => {
    const size = [x.shape[1], x.shape[2]];
    const kernel = pieces[0].kernel.shape;
    let wide = spread(spread(dy, 1, stride[0]), 2, stride[1]);
    const frames = [0, 1].map((k) => {
      const reach = dilation[k] * (kernel[k] - 1);
      const before = reach - padding[k];
      return [before, size[k] + reach - wide.shape[1 + k] - before];
    });
    let frame;
    [wide, frame] = framed(wide, ...frames);
    const options = { stride: 1, frame, dilation, depthwise };
    if (pieces.length === 1) return convolved(wide, pieces[0].turned, options);
    const parts = tf.split(wide, pieces.length, 3);
    return tf.concat(parts.map((part, k) => convolved(part, pieces[k].turned, options)), 3);
  };

  // --- pooling ------------------------------------------------------------------------------------------------------

  // Each entry repeated along rows and columns. By concatenation: the library's `tile` takes ten times as long.
  const tiled = (x, [rows, columns]) => {
    const [n, h, w, c] = x.shape;
    const repeated = (flat, times) => (times > 1 ? tf.concat(Array(times).fill(flat), 1) : flat);
    const across = repeated(tf.reshape(x, [n * h * w, c]), columns);
    const down = repeated(tf.reshape(across, [n * h, w * columns * c]), rows);
    return tf.reshape(down, [n, h * rows, w * columns, c]);
  };
  // Sums over windows, as a convolution of each channel with ones.
  const windows = (node, channels) => {
    const ones = tf.ones([...node.kernel, channels, 1]);
    return { pieces: [{ kernel: ones, turned: ones }], depthwise: true };
  };
  const geometry = (node) => ({ stride: node.stride, padding: node.padding, dilation: [1, 1] });
  const even = (node, x) =>
    [0, 1].every((k) => node.kernel[k] === node.stride[k] && !node.padding[k] && x.shape[k + 1] % node.kernel[k] === 0);
  const shares = (node, x) => {
    const [, h, w, c] = x.shape;
    if (!node.inside) return tf.scalar(node.kernel[0] * node.kernel[1]);
    return forwardConv(tf.ones([1, h, w, c]), windows(node, c), geometry(node)); // how many are inside the picture
  };
  // What each entry of the window at (i, j) sees, on the output's grid; outside the picture it is −infinity.
  const seenAt = (padded, node, i, j, [, rows, columns]) =>
    tf.stridedSlice(
      padded,
      [0, i, j, 0],
      [padded.shape[0], i + (rows - 1) * node.stride[0] + 1, j + (columns - 1) * node.stride[1] + 1, padded.shape[3]],
      [1, ...node.stride, 1],
    );

  // --- operations: forward(inputs, node) and backward(dy, inputs, output, node) → a gradient for each input -----------

  const positive = (x) => tf.step(x);
  const between = (x, low, high) => tf.mul(tf.step(tf.sub(x, low)), tf.step(tf.sub(high, x)));
  const pointwise = (forward, slope) => ({
    forward: ([x], node) => forward(x, node),
    backward: (dy, [x], y, node) => [tf.mul(dy, slope(x, y, node))],
  });
  const SELU = { alpha: 1.6732632423543772, scale: 1.0507009873554805 };
  const elu = (x, alpha) => tf.add(tf.relu(x), tf.mul(alpha, tf.sub(tf.exp(tf.minimum(x, 0)), 1)));
  const eluSlope = (x, alpha) => tf.add(positive(x), tf.mul(tf.sub(1, positive(x)), tf.mul(alpha, tf.exp(tf.minimum(x, 0)))));
  const softplus = (x) => tf.add(tf.relu(x), tf.log(tf.add(1, tf.exp(tf.neg(tf.abs(x)))))); // no overflow
  const erf = (x) => tf.erf(x);
  const bell = (x) => tf.mul(1 / Math.sqrt(2 * Math.PI), tf.exp(tf.mul(-0.5, tf.square(x))));
  const inner = (x) => tf.mul(Math.sqrt(2 / Math.PI), tf.add(x, tf.mul(0.044715, tf.mul(x, tf.square(x)))));
  // A gradient summed to the shape of an input that was stretched.
  const reduced = (dy, shape) => {
    while (shape.length < dy.shape.length) shape = [1, ...shape];
    const axes = shape.flatMap((size, k) => (size === 1 && dy.shape[k] !== 1 ? [k] : []));
    return axes.length ? tf.sum(dy, axes, true) : dy;
  };
  const two = (apply, slopes) => ({
    forward: (inputs, { number, first }) => {
      if (number === undefined) return apply(inputs[0], inputs[1]);
      return first ? apply(inputs[0], number) : apply(number, inputs[0]);
    },
    backward: (dy, inputs, y, { number, first }) => {
      if (number !== undefined) return [first ? slopes(dy, inputs[0], number)[0] : slopes(dy, number, inputs[0])[1]];
      return slopes(dy, inputs[0], inputs[1]).map((slope, k) => reduced(slope, inputs[k].shape));
    },
  });

  const OPS = {
    conv: {
      prepare: (node, tensors) => ({ ...prepared(tensors[node.weight], node.groups), bias: tensors[node.bias] }),
      forward: ([x], node, own) => forwardConv(x, own, { ...node, bias: own.bias }),
      backward: (dy, [x], y, node, own) => {
        const slope = node.activation === "relu" ? tf.mul(dy, positive(y)) : dy;
        return [backwardConv(slope, x, own, node)];
      },
    },
    linear: {
      prepare: (node, tensors) => ({ weight: tensors[node.weight], bias: tensors[node.bias] }),
      forward: ([x], node, { weight, bias }) => {
        const y = tf.matMul(x, weight);
        return bias ? tf.add(y, bias) : y;
      },
      backward: (dy, inputs, y, node, { weight }) => [tf.matMul(dy, weight, false, true)],
    },
    affine: {
      prepare: (node, tensors) => ({ scale: tensors[node.scale], shift: tensors[node.shift] }),
      forward: ([x], node, { scale, shift }) => tf.add(tf.mul(x, scale), shift),
      backward: (dy, inputs, y, node, { scale }) => [tf.mul(dy, scale)],
    },
    constant: {
      prepare: (node, tensors) => ({ value: tensors[node.value] }),
      forward: (inputs, node, { value }) => tf.reshape(value, [1, 1, 1, value.size]),
      backward: () => [],
    },
    relu: pointwise((x) => tf.relu(x), (x, y) => positive(y)),
    fake_relu: { forward: ([x]) => tf.relu(x), backward: (dy) => [dy] },
    relu6: pointwise((x) => tf.clipByValue(x, 0, 6), (x) => between(x, 0, 6)),
    leaky_relu: pointwise(
      (x, { negative_slope: slope }) => tf.leakyRelu(x, slope),
      (x, y, { negative_slope: slope }) => tf.add(slope, tf.mul(1 - slope, positive(x))),
    ),
    elu: pointwise((x, { alpha }) => elu(x, alpha), (x, y, { alpha }) => eluSlope(x, alpha)),
    celu: pointwise(
      (x, { alpha }) => tf.add(tf.relu(x), tf.mul(alpha, tf.sub(tf.exp(tf.div(tf.minimum(x, 0), alpha)), 1))),
      (x, y, { alpha }) => tf.add(positive(x), tf.mul(tf.sub(1, positive(x)), tf.exp(tf.div(tf.minimum(x, 0), alpha)))),
    ),
    selu: pointwise((x) => tf.mul(SELU.scale, elu(x, SELU.alpha)), (x) => tf.mul(SELU.scale, eluSlope(x, SELU.alpha))),
    sigmoid: pointwise((x) => tf.sigmoid(x), (x, y) => tf.mul(y, tf.sub(1, y))),
    tanh: pointwise((x) => tf.tanh(x), (x, y) => tf.sub(1, tf.square(y))),
    silu: pointwise(
      (x) => tf.mul(x, tf.sigmoid(x)),
      (x, y) => {
        const s = tf.sigmoid(x);
        return tf.add(s, tf.mul(y, tf.sub(1, s)));
      },
    ),
    gelu: pointwise(
      (x, { tanh }) => tf.mul(tf.mul(0.5, x), tf.add(1, tanh ? tf.tanh(inner(x)) : erf(tf.mul(Math.SQRT1_2, x)))),
      (x, y, { tanh }) => {
        if (!tanh) return tf.add(tf.mul(0.5, tf.add(1, erf(tf.mul(Math.SQRT1_2, x)))), tf.mul(x, bell(x)));
        const t = tf.tanh(inner(x));
        const steep = tf.mul(Math.sqrt(2 / Math.PI), tf.add(1, tf.mul(3 * 0.044715, tf.square(x))));
        return tf.add(tf.mul(0.5, tf.add(1, t)), tf.mul(tf.mul(0.5, x), tf.mul(tf.sub(1, tf.square(t)), steep)));
      },
    ),
    softplus: pointwise(
      (x, { beta }) => tf.div(softplus(tf.mul(beta, x)), beta),
      (x, y, { beta }) => tf.sigmoid(tf.mul(beta, x)),
    ),
    mish: pointwise(
      (x) => tf.mul(x, tf.tanh(softplus(x))),
      (x) => {
        const t = tf.tanh(softplus(x));
        return tf.add(t, tf.mul(tf.mul(x, tf.sigmoid(x)), tf.sub(1, tf.square(t))));
      },
    ),
    hardtanh: pointwise(
      (x, { min_val: low, max_val: high }) => tf.clipByValue(x, low, high),
      (x, y, { min_val: low, max_val: high }) => between(x, low, high),
    ),
    hardsigmoid: pointwise(
      (x) => tf.clipByValue(tf.add(tf.div(x, 6), 0.5), 0, 1),
      (x) => tf.div(between(x, -3, 3), 6),
    ),
    hardswish: pointwise(
      (x) => tf.mul(x, tf.clipByValue(tf.add(tf.div(x, 6), 0.5), 0, 1)),
      (x) => tf.add(positive(tf.sub(x, 3)), tf.mul(between(x, -3, 3), tf.add(tf.div(x, 3), 0.5))),
    ),
    add: two((a, b) => tf.add(a, b), (dy) => [dy, dy]),
    sub: two((a, b) => tf.sub(a, b), (dy) => [dy, tf.neg(dy)]),
    mul: two((a, b) => tf.mul(a, b), (dy, a, b) => [tf.mul(dy, b), tf.mul(dy, a)]),
    cat: {
      forward: (inputs) => tf.concat(inputs, inputs[0].shape.length - 1),
      backward: (dy, inputs) => tf.split(dy, inputs.map((x) => x.shape.at(-1)), dy.shape.length - 1),
    },
    mean: {
      forward: ([x], { keep }) => tf.mean(x, [1, 2], !!keep),
      backward: (dy, [{ shape: [n, h, w, c] }]) => [tiled(tf.div(tf.reshape(dy, [n, 1, 1, c]), h * w), [h, w])],
    },
    // In PyTorch's order, channels before positions: a linear layer may follow.
    flatten: {
      forward: ([x]) => tf.reshape(x.shape[1] * x.shape[2] > 1 ? tf.transpose(x, [0, 3, 1, 2]) : x, [x.shape[0], -1]),
      backward: (dy, [{ shape: [n, h, w, c] }]) =>
        h * w > 1 ? [tf.transpose(tf.reshape(dy, [n, c, h, w]), [0, 2, 3, 1])] : [tf.reshape(dy, [n, h, w, c])],
    },
    unflatten: {
      forward: ([x]) => tf.reshape(x, [x.shape[0], 1, 1, x.shape[1]]),
      backward: (dy, [x]) => [tf.reshape(dy, x.shape)],
    },
    avg_pool: {
      forward: ([x], node) => {
        if (even(node, x)) return tf.avgPool(x, node.kernel, node.stride, "valid");
        return tf.div(forwardConv(x, windows(node, x.shape[3]), geometry(node)), shares(node, x));
      },
      backward: (dy, [x], y, node) => {
        const share = tf.div(dy, shares(node, x));
        return [even(node, x) ? tiled(share, node.kernel) : backwardConv(share, x, windows(node, x.shape[3]), geometry(node))];
      },
    },
    max_pool: {
      forward: ([x], node) => {
        const [rows, columns] = node.padding;
        const padded = tf.pad(x, [[0, 0], [rows, rows], [columns, columns], [0, 0]], -1e38);
        return tf.maxPool(padded, node.kernel, node.stride, "valid");
      },
      // To the first of the largest, as PyTorch does.
      backward: (dy, [x], y, node) => {
        const [top, left] = node.padding;
        const padded = tf.pad(x, [[0, 0], [top, top], [left, left], [0, 0]], -1e38);
        let free = tf.onesLike(y);
        let total;
        for (let i = 0; i < node.kernel[0]; i++)
          for (let j = 0; j < node.kernel[1]; j++) {
            const hit = tf.mul(free, tf.cast(tf.equal(seenAt(padded, node, i, j, y.shape), y), "float32"));
            free = tf.sub(free, hit);
            const wide = spread(spread(tf.mul(dy, hit), 1, node.stride[0]), 2, node.stride[1]);
            const [, h, w] = wide.shape;
            const frames = [[i - top, x.shape[1] - h - (i - top)], [j - left, x.shape[2] - w - (j - left)]];
            const [cut, frame] = framed(wide, ...frames);
            const placed = tf.pad(cut, frame);
            total = total ? tf.add(total, placed) : placed;
          }
        return [total];
      },
    },
  };

  // --- a network ------------------------------------------------------------------------------------------------------

  const count = (shape) => shape.reduce((a, b) => a * b, 1);
  // All numbers of half precision: sign, 5 bits of exponent, 10 of mantissa.
  const HALVES = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const [exponent, mantissa] = [(bits >> 10) & 31, bits & 1023];
    HALVES[bits] = (bits >> 15 ? -1 : 1) * (exponent ? 2 ** (exponent - 25) * (1024 + mantissa) : 2 ** -24 * mantissa);
  }
  const weighed = (halves, worth) => {
    const values = new Float32Array(halves.length);
    for (let k = 0; k < halves.length; k++) values[k] = HALVES[halves[k]] * worth[k % worth.length];
    return values;
  };
  const tensorOf = ({ shape, floats, halves }, numbers) => {
    if (halves === undefined) return tf.tensor(numbers.floats.slice(floats, floats + count(shape)), shape);
    const worth = numbers.floats.subarray(floats, floats + shape.at(-1));
    return tf.tensor(weighed(numbers.halves.subarray(halves, halves + count(shape)), worth), shape);
  };
  const numbersOf = ({ weights, floats, halves }) => {
    const { buffer } = bytesOf(weights); // see graphs.py
    return { floats: new Float32Array(buffer, 0, floats), halves: new Uint16Array(buffer, 4 * floats, halves) };
  };

  class Network {
    constructor(about) {
      Object.assign(this, { classes: about.classes, sides: about.sides, components: about.components });
      this.places = { map: about.map, features: about.features, logits: about.logits };
      about.layers?.forEach(({ node }, k) => (this.places[`layer${k}`] = node));
      const numbers = numbersOf(about);
      const tensors = about.tensors.map((tensor) => tensorOf(tensor, numbers));
      this.mean = tf.tensor(about.mean);
      this.std = tf.tensor(about.std);
      this.nodes = fused(about.nodes.map((node) => ({ ...node })), Object.values(this.places));
      this.own = this.nodes.map((node) => OPS[node.op]?.prepare?.(node, tensors));
      this.head = this.own[about.logits];
    }

    // The values of all nodes that the wanted ones need.
    values(images, wanted) {
      const last = Math.max(...wanted);
      const values = [];
      for (let k = 0; k <= last; k++) {
        const node = this.nodes[k];
        if (node.op === "input") values[k] = tf.div(tf.sub(images, this.mean), this.std);
        else if (node.op === "same") values[k] = values[node.from[0]];
        else values[k] = OPS[node.op].forward(node.from.map((i) => values[i]), node, this.own[k]);
      }
      return values;
    }

    // The gradient with respect to the images, of one with respect to a node's value.
    back(values, place, slope) {
      const slopes = [];
      slopes[place] = slope;
      for (let k = place; k > 0; k--) {
        const dy = slopes[k];
        if (!dy) continue;
        const node = this.nodes[k];
        const inputs = node.from.map((i) => values[i]);
        const found = node.op === "same" ? [dy] : OPS[node.op].backward(dy, inputs, values[k], node, this.own[k]);
        node.from.forEach((i, j) => (slopes[i] = slopes[i] ? tf.add(slopes[i], found[j]) : found[j]));
        slopes[k] = null;
      }
      return tf.div(slopes[0], this.std);
    }

    // What the network has at a place ("map", "features", "logits", "layer0", …). The caller's to
    // dispose of.
    at(place, images) {
      const node = this.places[place];
      return tf.tidy(() => this.values(images, [node])[node]);
    }

    // One pass forward and back: each image's loss, its gradient, and the logits.
    evaluate(images, objective, place, backward = true) {
      const [node, { logits }] = [this.places[place], this.places];
      return tf.tidy(() => {
        const values = this.values(images, [node, logits]);
        const { losses, slope } = objective(values[node]);
        const gradient = backward ? this.back(values, node, slope) : null;
        return { losses, logits: values[logits], gradient };
      });
    }
  }

  // A ReLU that alone looks at a convolution is computed with it.
  function fused(nodes, wanted) {
    const readers = nodes.map(() => 0);
    nodes.forEach((node) => node.from.forEach((i) => (readers[i] += 1)));
    wanted.forEach((i) => (readers[i] += 1));
    for (const node of nodes) {
      const source = nodes[node.from[0]];
      if (node.op !== "relu" || source?.op !== "conv" || source.groups !== 1 || readers[node.from[0]] > 1) continue;
      source.activation = "relu";
      node.op = "same";
    }
    return nodes;
  }

  // --- objectives: features → losses (n) and the gradient of their sum ------------------------------------------------

  const flat = (x) => tf.reshape(x, [x.shape[0], -1]);
  const length = (x) => tf.sqrt(tf.sum(tf.square(x), 1, true));

  // ‖f − t‖ / ‖t‖; a target row for each image, or one for all.
  const match = (target) => {
    const goal = tf.keep(flat(target));
    const far = tf.keep(tf.tidy(() => tf.maximum(length(goal), EPSILON)));
    const objective = (features) => {
      const offset = tf.sub(flat(features), goal);
      const distance = length(offset);
      const slope = tf.div(tf.div(offset, tf.maximum(distance, EPSILON)), far);
      return { losses: tf.reshape(tf.div(distance, far), [-1]), slope: tf.reshape(slope, features.shape) };
    };
    objective.dispose = () => tf.dispose([goal, far]);
    return objective;
  };

  // −min(f_i, ceiling), for each image its own component i.
  const activate = (components, ceilings) => {
    let mask, end;
    const objective = (features) => {
      const [n, width] = features.shape;
      const each = (values) => Array.from({ length: n }, (_, k) => values[values.length === 1 ? 0 : k]);
      const low = Math.min(...components);
      const high = Math.max(...components);
      if (low < 0 || high >= width) throw new Error(`component: got ${low < 0 ? low : high}, wanted 0 to ${width - 1}`);
      mask ??= tf.keep(tf.cast(tf.oneHot(tf.tensor1d(each(components), "int32"), width), "float32"));
      if (ceilings) end ??= tf.keep(tf.tensor1d(each(ceilings)));
      const value = tf.sum(tf.mul(features, mask), 1);
      if (!ceilings) return { losses: tf.neg(value), slope: tf.neg(mask) };
      const moving = tf.cast(tf.lessEqual(value, end), "float32");
      return { losses: tf.neg(tf.minimum(value, end)), slope: tf.neg(tf.mul(mask, tf.reshape(moving, [-1, 1]))) };
    };
    objective.dispose = () => tf.dispose([mask, end].filter(Boolean));
    return objective;
  };

  // An objective of a map whose positions are weighted, (1, h, w, 1): `nb.region(…, positions=True)`.
  const weighted = (weights, objective) => {
    const own = (map) => {
      const { losses, slope } = objective(tf.mul(map, weights));
      return { losses, slope: tf.mul(slope, weights) };
    };
    own.dispose = () => objective.dispose();
    return own;
  };

  // An objective of a map's mean in a region: positions count by their share, (1, h, w, 1), sum 1.
  const region = (shares, objective) => {
    const own = (map) => {
      const { losses, slope } = objective(tf.sum(tf.mul(map, shares), [1, 2]));
      return { losses, slope: tf.mul(tf.reshape(slope, [slope.shape[0], 1, 1, slope.shape[1]]), shares) };
    };
    own.dispose = () => objective.dispose();
    return own;
  };

  // −‖f − o‖: away from one representation.
  const leave = (origin) => {
    const from = tf.keep(flat(origin));
    const objective = (features) => {
      const offset = tf.sub(flat(features), from);
      const distance = length(offset);
      const slope = tf.neg(tf.div(offset, tf.maximum(distance, EPSILON)));
      return { losses: tf.neg(tf.reshape(distance, [-1])), slope: tf.reshape(slope, features.shape) };
    };
    objective.dispose = () => tf.dispose(from);
    return objective;
  };

  // --- descent --------------------------------------------------------------------------------------------------------

  const perImage = (x) => tf.maximum(tf.sqrt(tf.sum(tf.square(x), [1, 2, 3], true)), EPSILON);
  const box = (images) => tf.clipByValue(images, 0, 1);
  const ball = (center, radius) => (images) => {
    const offset = tf.sub(images, center);
    const share = tf.minimum(tf.div(radius, perImage(offset)), 1);
    return tf.clipByValue(tf.add(center, tf.mul(offset, share)), 0, 1);
  };
  // As `within` in optimize.py: where the mask is 0, a pixel stays as it is, bit for bit.
  const within = (low, high, inside) => (images) => {
    const clamped = (x) => tf.maximum(tf.minimum(x, high), low);
    return clamped(inside(clamped(images)));
  };

  // The length of the first step, as in optimize.py: fewer steps are longer, and lengths grow with the diagonal.
  const firstStep = (size, full, steps, shape) =>
    size * Math.min(Math.max(full / steps, 1), 2) * Math.sqrt(shape.slice(1).reduce((a, b) => a * b, 1) / 3072);

  // Generates every iterate, with the start: { index, total, shape }, and as tensors, which live
  // until the next request, { images, losses, logits }. A radius is around the start, or around `center`.
  function* descend(network, objective, start, options) {
    const { place, steps, stepSize, momentum = 0.8, radius, center, mask } = options;
    let images = tf.clone(start);
    let velocity = tf.zerosLike(start);
    let now = {};
    const bounds = mask ? [tf.sub(start, mask), tf.add(start, mask)] : [];
    const inside = radius === undefined || radius === null ? box : ball(center ?? start, radius);
    const project = mask ? within(...bounds, inside) : inside;
    try {
      for (let index = 0; index <= steps; index++) {
        now = network.evaluate(images, objective, place, index < steps);
        const { losses, logits, gradient } = now;
        yield { index, total: steps, shape: images.shape, images, losses, logits };
        if (index === steps) return;
        const rate = stepSize * 0.5 * (1 + Math.cos((Math.PI * index) / steps));
        const [faster, moved] = tf.tidy(() => {
          const next = tf.add(tf.mul(velocity, momentum), tf.div(gradient, perImage(gradient)));
          return [next, project(tf.sub(images, tf.mul(next, rate)))];
        });
        tf.dispose([losses, logits, gradient, velocity, images]);
        [velocity, images] = [faster, moved];
      }
    } finally {
      tf.dispose([images, velocity, ...bounds, ...Object.values(now).filter(Boolean)]);
    }
  }

  // Numbers of tensors, arrays of their own. A graphics card gives them later.
  const read = (...tensors) => Promise.all(tensors.map(async (x) => (await x.data()).slice()));

  // --- the processors -------------------------------------------------------------------------------------------------

  // The library on one thread, from bytes in the page: nothing is fetched. Resolves to false without WebAssembly SIMD.
  const begin = async (wasm) => {
    if (typeof WebAssembly !== "object" || !(await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT"))) return false;
    tf.env().platform.fetch = async () => new Response(wasm, { headers: { "Content-Type": "application/wasm" } });
    const kinds = ["", "-simd", "-threaded-simd"].map((kind) => [`tfjs-backend-wasm${kind}.wasm`, "inside.wasm"]);
    tf.wasm.setWasmPaths(Object.fromEntries(kinds), true); // it wants a name for each; true: by the fetch above
    tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
    if (!(await tf.setBackend("wasm"))) return false;
    await tf.ready();
    return true;
  };

  // What an engine is weighed by: the gradient from noise towards a pattern, and the seconds of five steps.
  // A processor that has taken longer than `limit` is not waited for.
  const STEPS = 5;
  const trial = async (network, limit = Infinity) => {
    const shape = [1, ...network.sides, network.mean.shape[0]];
    const numbers = (f) => tf.tensor(Float32Array.from({ length: count(shape) }, (_, k) => f(k)), shape);
    const start = numbers((k) => 0.5 + 0.1 * Math.sin(7.3 * k * k)); // irregular, the same everywhere
    const pattern = numbers((k) => 0.5 + 0.4 * Math.sin(k / 40));
    const target = network.at("map", pattern);
    const goal = match(target);
    const found = network.evaluate(start, goal, "map");
    const [gradient] = await read(found.gradient);
    let [began, seconds] = [0, 0];
    for (const step of descend(network, goal, start, { place: "map", steps: STEPS + 1, stepSize: 0.1 })) {
      await read(step.losses, step.images);
      if (step.index < 1) continue;
      if (step.index === 1) began = performance.now(); // the first prepares much
      seconds = (performance.now() - began) / 1000;
      if (seconds > limit) break;
    }
    goal.dispose();
    tf.dispose([start, pattern, target, ...Object.values(found)]);
    return { gradient, seconds };
  };
  const apart = (found, wanted) => {
    let [far, all] = [0, 0];
    for (let k = 0; k < wanted.length; k++) {
      far += (found[k] - wanted[k]) ** 2;
      all += wanted[k] ** 2;
    }
    return Math.sqrt(far / all);
  };

  // From WebAssembly to the graphics card, for a network that it computes rightly and, unless it is
  // `wanted` anyway, faster. Resolves to the network there and what was found; else throws the reason.
  const ERROR = 1e-2; // relative: at a ReLU's kink single pixels may differ
  const accelerated = async (about, wanted) => {
    const floor = await trial(new Network(about));
    const there = await tf.setBackend("webgpu").catch(() => false);
    if (!there) throw new Error("the browser offers no graphics adapter");
    const network = new Network(about);
    const { gradient, seconds } = await trial(network, wanted ? Infinity : floor.seconds);
    const error = apart(gradient, floor.gradient);
    if (!(error <= ERROR)) throw new Error(`the graphics card's gradient is off by ${error.toPrecision(2)}`);
    if (!wanted && seconds >= floor.seconds) throw new Error(`the graphics card takes longer than the ${floor.seconds.toFixed(3)} s of ${STEPS} steps here`);
    const times = `${STEPS} steps: ${seconds.toFixed(3)} s on the graphics card, ${floor.seconds.toFixed(3)} s in WebAssembly`;
    return { network, error, times };
  };

  return {
    Network, match, activate, region, weighted, leave, ball, descend, read, firstStep, begin, accelerated,
  };
})();
