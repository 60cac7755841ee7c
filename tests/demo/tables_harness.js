// Two tables in frames, for the script that says which of them are cut.
const fs = require("fs");
const frames = [500, 300].map(scrollWidth => {
  const frame = {scrollWidth, clientWidth: 300};
  frame.classList = {toggle(name, on) { frame[name] = on; }};
  return frame;
});
const resized = [];
global.document = {querySelectorAll: query => query === ".wide" ? frames : []};
global.addEventListener = (name, f) => { if (name === "resize") resized.push(f); };
new Function(fs.readFileSync(process.argv[2], "utf8"))();
const narrow = frames.map(frame => frame.more);
for (const frame of frames) frame.clientWidth = 600;
resized.forEach(f => f());
console.log(JSON.stringify({narrow, wide: frames.map(frame => frame.more)}));
