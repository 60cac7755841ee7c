// Players that share one position, and a mixer of the tracks before and after.
//
// Players: pressing play goes on where the last one stopped, unless the listener has moved this one by hand; then it plays
// from there. The mixer decodes the four tracks once and plays them in step, so that muting, soloing and switching between
// what went in and what came out change nothing but gains.
const all = (query, root = document) => [...root.querySelectorAll(query)];
const players = all("audio"), lines = all(".view i"), views = all(".view"), length = Number(document.querySelector("#mixer").dataset.seconds);
let now = 0, active = null;
const moved = new Set(), jumping = new Set();
const clock = t => Math.floor(t / 60) + ":" + String(Math.floor(t % 60)).padStart(2, "0");
function show() {
  const part = Math.min(1, now / length);
  for (const line of lines) line.style.left = (100 * part) + "%";
  for (const view of views) { view.setAttribute("aria-valuenow", now.toFixed(1)); view.setAttribute("aria-valuetext", clock(now)); }
  mixer.show();
}
function jump(player, t) { jumping.add(player); player.currentTime = t; }
function tick() { if (active && !active.paused) { now = active.currentTime; show(); requestAnimationFrame(tick); } }
for (const player of players) {
  player.addEventListener("play", () => {
    for (const other of players) if (other !== player) other.pause();
    mixer.pause();
    if (moved.delete(player)) now = player.currentTime;
    else if (active !== player && now < length - 0.05 && Math.abs(player.currentTime - now) > 0.08) jump(player, now);
    active = player;
    tick();
  });
  player.addEventListener("seeked", () => {
    if (jumping.delete(player)) return;
    if (active === player) { now = player.currentTime; show(); } else moved.add(player);
    if (!active || active.paused) { now = player.currentTime; show(); }
  });
  player.addEventListener("ended", () => { now = 0; show(); });
}
function seek(t, view) {
  now = Math.min(length, Math.max(0, t)); moved.clear();
  const own = view && view.parentElement.querySelector("audio");
  if (mixer.playing) mixer.seek(now);
  else { const player = own || active || players[0]; if (player) { jump(player, now); if (own) { active = own; own.play(); } } }
  show();
}
for (const view of views) {
  view.addEventListener("click", event => {
    const box = view.getBoundingClientRect();
    seek(length * (event.clientX - box.left) / box.width, view);
  });
  view.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10}[event.key];
    const own = view.parentElement.querySelector("audio");
    if (step) seek(now + step);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(length);
    else if (event.key === "Enter" || event.key === " ") { if (own) own.paused ? own.play() : own.pause(); }
    else return;
    event.preventDefault();
  });
}
const mixer = (() => {
  const box = document.querySelector("#mixer"), find = query => box && box.querySelector(query);
  const play = find(".play"), slider = find("input[type=range]"), side = () => find("[name=side]:checked").value;
  const tracks = box ? all("audio[data-side]") : [], state = {};
  let context = null, nodes = [], began = 0;
  const self = {playing: false, show() { if (slider) { slider.value = now; slider.setAttribute("aria-valuetext", clock(now)); } }};
  const audible = track => {
    const solo = Object.keys(state).filter(name => state[name].solo);
    return !state[track].mute && (!solo.length || solo.includes(track));
  };
  /* Power of what is heard of a side, from each track's loudness in LUFS. */
  const power = of => tracks.filter(t => t.dataset.side === of && audible(t.dataset.track))
    .reduce((sum, t) => sum + 10 ** (Number(t.dataset.lufs) / 10), 0);
  self.gains = () => {
    const sides = {in: power("in"), out: power("out")}, equal = find(".equal").checked;
    const low = Math.min(sides.in, sides.out);
    return tracks.map(t => {
      const of = t.dataset.side, trim = equal && low > 0 ? Math.sqrt(low / sides[of]) : 1;
      return of === side() && audible(t.dataset.track) ? trim * Number(t.dataset.gain) * Number(box.dataset.headroom) : 0;
    });
  };
  function set() { if (context) self.gains().forEach((gain, i) => nodes[i].gain.setTargetAtTime(gain, context.currentTime, 0.008)); }
  async function load() {
    context = new AudioContext();
    play.textContent = "Loading"; play.disabled = true;
    nodes = await Promise.all(tracks.map(async t => {
      const data = await (await fetch(t.src)).arrayBuffer();
      const gain = context.createGain(); gain.gain.value = 0; gain.connect(context.destination);
      gain.buffer = await context.decodeAudioData(data);
      return gain;
    }));
    play.disabled = false;
  }
  self.start = async () => {
    if (!context) await load();
    await context.resume();
    for (const player of players) player.pause();
    if (now > length - 0.05) now = 0;
    const when = context.currentTime + 0.05;
    for (const node of nodes) {
      node.source = context.createBufferSource(); node.source.buffer = node.buffer;
      node.source.connect(node); node.source.start(when, now);
    }
    began = when - now; self.playing = true; active = null; moved.clear();
    play.textContent = "Pause"; set(); run();
  };
  function stop() { for (const node of nodes) if (node.source) { node.source.stop(); node.source = null; } self.playing = false; }
  self.pause = () => { if (self.playing) { stop(); play.textContent = "Play"; } };
  self.seek = async t => { stop(); now = t; await self.start(); };
  function run() {
    if (!self.playing) return;
    now = Math.min(length, Math.max(0, context.currentTime - began)); show();
    if (now >= length) { self.pause(); now = 0; show(); } else requestAnimationFrame(run);
  }
  if (box) {
    for (const button of all("[data-what]", box)) {
      state[button.dataset.track] = state[button.dataset.track] || {mute: false, solo: false};
      button.addEventListener("click", () => {
        const on = state[button.dataset.track][button.dataset.what] = !state[button.dataset.track][button.dataset.what];
        button.setAttribute("aria-pressed", String(on)); set();
      });
    }
    play.addEventListener("click", () => self.playing ? self.pause() : self.start());
    slider.addEventListener("input", () => { now = Number(slider.value); self.playing ? self.seek(now) : show(); });
    for (const input of all("[name=side], .equal", box)) input.addEventListener("change", set);
  }
  return self;
})();
show();
