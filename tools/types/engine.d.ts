// TensorFlow.js, which the exported page puts before the engine; its own types are not fetched.
declare const tf: any;
