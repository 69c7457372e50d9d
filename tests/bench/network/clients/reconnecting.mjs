// A client as users of partysocket or reconnecting-websocket write it: send when there is audio, the library does the rest.
//   node reconnecting.mjs MODULES LIBRARY URL
import { createRequire } from "node:module";

const [modules, library, url] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const plain = require("ws");
const loaded = require(library === "partysocket" ? "partysocket/ws" : library);
const Reconnecting = loaded.default ?? loaded.WebSocket ?? loaded;
const packetMs = 100;
const frames = 1600;

const socket = new Reconnecting(url, [], { WebSocket: plain });
socket.binaryType = "arraybuffer";
socket.addEventListener("open", () => {
  socket.send(JSON.stringify({ type: "init", supports_pcm: true, format: "pcm16", sample_rate: 16000, channels: 1,
    frame_duration_ms: packetMs, frame_samples: frames, next_seq: 1 }));
});
socket.addEventListener("message", (event) => {
  if (typeof event.data === "string" && JSON.parse(event.data).type === "ping") socket.send('{"type":"pong"}');
});
socket.addEventListener("error", () => {});

function packet(seq) {
  const bytes = Buffer.alloc(32 + 2 * frames);
  bytes.writeUInt32LE(0x314d4350, 0);
  bytes.writeUInt32LE(seq, 4);
  bytes.writeDoubleLE(Date.now(), 8);
  bytes.writeUInt16LE(frames, 16);
  bytes.writeUInt16LE(packetMs, 18);
  bytes.writeUInt32LE(16000, 20);
  bytes.writeUInt16LE(1, 24);
  bytes.writeUInt16LE(1, 26);
  bytes.writeUInt32LE(2 * frames, 28);
  return bytes;
}

const begunAt = performance.now();
let seq = 0;
console.log("started");
setInterval(() => {
  while ((performance.now() - begunAt) / packetMs > seq + 1) socket.send(packet(++seq));
}, 10);
