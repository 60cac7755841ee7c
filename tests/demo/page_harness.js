// A page of stand-ins for the script of the report: elements with the few properties that it uses.
const fs = require("fs");
class Fake {
  constructor(fields = {}) { this.on = {}; this.dataset = {}; this.style = {}; this.attributes = {}; this.classList = {toggle() {}}; Object.assign(this, fields); }
  addEventListener(name, f) { (this.on[name] ||= []).push(f); }
  fire(name, event = {}) { for (const f of this.on[name] || []) f({preventDefault() {}, ...event}); }
  setAttribute(name, value) { this.attributes[name] = value; }
  getAttribute(name) { return this.attributes[name]; }
  getBoundingClientRect() { return {left: 0, width: 100}; }
  querySelector(query) { return (this.inside || {})[query] || null; }
  querySelectorAll(query) { return (this.inside || {})[query] || []; }
}
class Audio extends Fake {
  constructor(fields) { super(fields); this.paused = true; this.time = 0; }
  get currentTime() { return this.time; }
  set currentTime(t) { this.time = t; this.fire("seeked"); }
  drag(t) { this.currentTime = t; }
  play() { this.paused = false; this.fire("play"); }
  pause() { this.paused = true; }
}
const track = (side, name, lufs) => new Audio({dataset: {side, track: name, lufs, gain: "1"}});
const audio = [new Audio({}), new Audio({}), track("in", "vocals", "-20"), track("out", "vocals", "-26"), track("in", "accompaniment", "-20"), track("out", "accompaniment", "-26")];
const view = new Fake({parentElement: {querySelector: () => audio[0]}});
const sides = {in: new Fake({value: "in", checked: true}), out: new Fake({value: "out"})};
const buttons = ["vocals", "accompaniment"].flatMap(t => ["mute", "solo"].map(what => new Fake({dataset: {track: t, what}})));
const equal = new Fake({checked: false});
const mixerBox = new Fake({dataset: {headroom: "1", seconds: "10"}, inside: {".play": new Fake({}), "input[type=range]": new Fake({}), ".equal": equal,
  "[data-what]": buttons, "[name=side], .equal": []}});
mixerBox.querySelector = query => query === "[name=side]:checked" ? (sides.in.checked ? sides.in : sides.out) : mixerBox.inside[query];
global.document = new Fake({inside: {audio, "audio[data-side]": audio.slice(2), ".view i": [], ".view": [view], ".wide": []}});
document.querySelector = query => query === "#mixer" ? mixerBox : null;
global.addEventListener = () => {};
global.requestAnimationFrame = () => {};
const script = fs.readFileSync(process.argv[2], "utf8");
const {mixer, position} = new Function(script + "; return {mixer, position: () => now};")();
const round = list => list.map(x => Math.round(1000 * x) / 1000);
const press = (t, what) => buttons.find(b => b.dataset.track === t && b.dataset.what === what).fire("click");
const found = {};

audio[0].play(); audio[0].time = 4; audio[0].fire("seeked");
audio[1].play(); found.goesOn = audio[1].time; found.paused = audio[0].paused;
audio[0].drag(2); audio[0].play(); found.dragged = audio[0].time;
audio[1].play(); found.after = audio[1].time;
view.fire("keydown", {key: "ArrowRight"}); found.key = position();
view.fire("keydown", {key: "Home"}); found.home = position();
view.fire("keydown", {key: "End"}); found.end = position();
view.fire("click", {clientX: 50}); found.click = position();

sides.in.checked = true; found.a = round(mixer.gains());
sides.in.checked = false; found.b = round(mixer.gains());
equal.checked = true; sides.in.checked = true; found.equal = round(mixer.gains());
press("vocals", "mute"); found.muted = round(mixer.gains()); press("vocals", "mute");
press("vocals", "solo"); found.solo = round(mixer.gains());
found.pressed = buttons.map(b => b.attributes["aria-pressed"] || "false");
console.log(JSON.stringify(found));
