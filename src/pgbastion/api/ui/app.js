// The dashboard: reads one picture of the cluster, shows it, and asks before it changes
// anything. Everything comes from this node; nothing is kept but in this page's memory.

import { bytes, plot, timeline, topology } from "./draw.js";

const EVERY_MS = 2000;
const STALE_MS = 6000;
const KEPT = 150; // looks that the plots show: five minutes
const GOOD = new Set(["healthy"]);
const BAD = new Set([
  "split_brain", "majority_lost", "no_candidate", "primary_silent",
  "primary_stopped", "commits_wait", "fenced",
]);
const $ = (id) => document.getElementById(id);

let token = "";
let picture = null;
let seenAt = 0;
let wanted = null;
const lags = {};
const rates = { WAL: [], "to servers": [], "to clients": [] };
let before = null;

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function list(element, lines, none = null) {
  const shown = lines.length || none === null ? lines : [none];
  element.replaceChildren(...shown.map((line) => {
    const item = document.createElement("li");
    item.textContent = line;
    if (!lines.length) item.className = "none";
    return item;
  }));
}

function row(cells) {
  const line = document.createElement("tr");
  for (const cell of cells) {
    const made = document.createElement("td");
    const [value, kind] = Array.isArray(cell) ? cell : [cell, ""];
    made.textContent = value === null || value === undefined ? "–" : String(value);
    if (kind) made.className = kind;
    line.append(made);
  }
  return line;
}

async function look() {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    const answer = await fetch("/ui/data", { headers, cache: "no-store" });
    if (answer.status === 401) { ask("read"); return; }
    if (!answer.ok) throw new Error(`the node answered ${answer.status}`);
    picture = await answer.json();
    seenAt = Date.now();
    note(picture);
    show(picture);
  } catch (error) {
    text($("seen"), `no answer: ${error.message}`);
    $("seen").className = "stale";
  }
}

function note(now) {
  const at = Date.now() / 1000;
  const keep = (series, value) => {
    series.push([at, value]);
    if (series.length > KEPT) series.shift();
  };
  for (const standby of now.replication.standbys) {
    lags[standby.node] ??= [];
    if (standby.lag_bytes !== null) keep(lags[standby.node], standby.lag_bytes);
  }
  const sums = {
    at,
    WAL: position(now.replication.wal_end),
    "to servers": now.traffic.bytes_to_servers,
    "to clients": now.traffic.bytes_to_clients,
  };
  if (before !== null && at > before.at) {
    for (const [name, series] of Object.entries(rates)) {
      keep(series, Math.max(sums[name] - before[name], 0) / (at - before.at));
    }
  }
  before = sums;
}

function position(lsn) {
  if (!lsn) return 0;
  const [high, low] = lsn.split("/").map((part) => parseInt(part, 16));
  return high * 2 ** 32 + low;
}

function show(now) {
  const { health, cluster, state, explain, replication, history, traffic, vip } = now;
  const ours = vip.addresses.filter((a) => a.role === "primary");
  text($("scope"), `${cluster.scope} · seen by ${health.node}`);
  $("seen").className = "";
  text($("seen"), `as of ${new Date(seenAt).toLocaleTimeString()}`);
  text($("state-line"), explain.state);
  text($("next-step"), explain.next_step);
  $("state").className = GOOD.has(explain.situation) ? "good"
    : BAD.has(explain.situation) ? "bad" : "warn";
  list($("warnings"), explain.warnings);
  list($("blocking"), explain.blocking, "Nothing: a standby could take over now.");
  const standbys = Object.fromEntries(replication.standbys.map((s) => [s.node, s]));
  const foreseen = Object.fromEntries(explain.if_node_died.map((f) => [f.node, f]));
  topology($("topology"), cluster.members.map((member) => ({
    name: member.name,
    role: vip.holder === member.name ? `${word(member.role)} · address` : word(member.role),
    kind: kind(member),
    server: member.port !== null,
    follows: member.state === "streaming",
    line: standbys[member.name] ? `${member.state}, ${bytes(standbys[member.name].lag_bytes)}`
      : member.state,
  })));
  $("nodes").tBodies[0].replaceChildren(...cluster.members.map((member) => row([
    member.name,
    [word(member.role) + (member.fenced ? ", fenced" : ""), kind(member)],
    member.state,
    member.timeline,
    member.role === "leader" || member.port === null ? null : bytes(member.lag),
    foreseen[member.name] ? foreseen[member.name].sentence : null,
  ])));
  facts({
    "Primary": cluster.primary ?? "none",
    "Epoch, timeline": `${cluster.epoch}, ${replication.timeline ?? "–"}`,
    "Lease of this node": health.lease_left_ms > 0 ? `${health.lease_left_ms} ms left` : "none",
    "Raft leader": `${health.leader ?? "none"}, term ${health.term}`,
    "Synchronous": `${state.synchronous.mode}: ${state.synchronous.num_sync} of `
      + `${state.synchronous.names.join(", ") || "nobody"}`,
    "Virtual address": ours.length
      ? ours.map((a) => `${a.address} (${a.state})`).join(", ") + ` at ${vip.holder ?? "nobody"}`
      : "not configured",
    "For replicas": vip.replicas.length
      ? vip.replicas.map((r) => `${r.address} ${r.state} at ${r.node ?? "no node"}`).join(", ")
      : "no address",
    "Sessions here": `${traffic.sessions} open, ${traffic.held} held`
      + (traffic.draining ? ", draining" : ""),
    "Paused": state.paused ? "yes: automatic actions are off" : "no",
    "Version": health.version,
  });
  document.querySelector("[data-do=pause]").hidden = state.paused;
  document.querySelector("[data-do=resume]").hidden = !state.paused;
  plot($("lag-plot"), $("lag-legend"), lags, bytes);
  plot($("rate-plot"), $("rate-legend"), rates, bytes);
  const changes = history.changes
    .filter((change) => change.assigned_at)
    .map((change) => ({ ...change, at: new Date(change.assigned_at) }))
    .sort((a, b) => a.at - b.at);
  timeline($("timeline"), changes, new Date(seenAt));
  $("history").tBodies[0].replaceChildren(...[...changes].reverse().map((change) => row([
    change.at.toLocaleString(),
    change.epoch,
    change.node,
    change.sentence,
    change.gap_ms === null ? null : `${change.gap_ms} ms`,
    change.sessions_closed,
  ])));
}

function facts(all) {
  $("facts").replaceChildren(...Object.entries(all).flatMap(([name, value]) => {
    const term = document.createElement("dt");
    term.textContent = name;
    const told = document.createElement("dd");
    told.textContent = value;
    return [term, told];
  }));
}

function word(role) {
  return {
    leader: "primary", replica: "standby", sync_standby: "synchronous standby",
    quorum_standby: "quorum standby",
  }[role] ?? role;
}

function kind(member) {
  if (member.fenced) return "bad";
  if (member.role === "leader") return "primary";
  if (member.role === "witness") return "";
  return member.state === "streaming" ? "standby" : "bad";
}

// What can be ordered. `target` tells whether a node is chosen, `force` whether the
// loss of commits can be accepted.
const ORDERS = {
  switchover: {
    title: "Switchover", path: "/cluster/switchover", target: "standby", any: true,
    text: "Moves the primary role while clients write. New connections wait for a moment.",
  },
  failover: {
    title: "Failover by hand", path: "/cluster/failover", target: "standby", force: true,
    text: "For a primary that does not come back. Refused where commits could be lost.",
  },
  pause: {
    title: "Pause", path: "/cluster/pause",
    text: "Switches automatic actions off: no failover until it is resumed.",
  },
  resume: {
    title: "Resume", path: "/cluster/resume", text: "Switches automatic actions on again.",
  },
  drain: {
    title: "Drain this node's proxy", path: "/connections/drain",
    text: "This node's proxy takes no new sessions; those that exist get the drain time.",
  },
  read: {
    title: "Token", path: null, text: "This node shows its state to those with a token.",
  },
};

function ask(what) {
  if ($("ask").open) return;
  const order = ORDERS[what];
  wanted = order;
  text($("ask-title"), order.title);
  text($("ask-text"), order.text);
  text($("ask-answer"), "");
  $("ask-answer").className = "";
  $("ask-node-label").hidden = !order.target;
  $("ask-force-label").hidden = !order.force;
  $("ask-force").checked = false;
  $("ask-token").value = token;
  $("ask-go").hidden = false;
  if (order.target && picture) {
    const names = picture.cluster.members
      .filter((member) => member.port !== null && member.role !== "leader")
      .map((member) => new Option(member.name, member.name));
    if (order.any) names.unshift(new Option("the best standby", ""));
    $("ask-node").replaceChildren(...names);
  }
  $("ask").showModal();
}

async function go() {
  token = $("ask-token").value.trim();
  if (!token) { $("ask-token").focus(); return; }
  if (wanted.path === null) { $("ask").close(); look(); return; }
  const body = {};
  if (wanted.target && $("ask-node").value) body.to = $("ask-node").value;
  if (wanted.force && $("ask-force").checked) body.force = true;
  $("ask-go").disabled = true;
  try {
    const answer = await fetch(wanted.path, {
      method: "POST",
      headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) {
      $("ask-answer").className = "done";
      text($("ask-answer"), "It is under way; this page follows.");
      $("ask-go").hidden = true;
    } else {
      const error = told.error ?? { message: `the node answered ${answer.status}`, remedy: "" };
      $("ask-answer").className = "";
      text($("ask-answer"), `${error.message}. ${error.remedy}`);
    }
  } catch (error) {
    text($("ask-answer"), `no answer: ${error.message}; look whether it took effect`);
  } finally {
    $("ask-go").disabled = false;
    look();
  }
}

// Live: an event is a reason to look at once. Without events the page looks anyway.
async function follow() {
  for (;;) {
    try {
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const answer = await fetch("/events", { headers, cache: "no-store" });
      if (!answer.ok || !answer.body) throw new Error("no events");
      const reader = answer.body.getReader();
      for (;;) {
        const { done } = await reader.read();
        if (done) break;
        look();
      }
    } catch {
      // The node restarts, or is gone: the next try tells.
    }
    await new Promise((resolve) => setTimeout(resolve, 3 * EVERY_MS));
  }
}

for (const button of document.querySelectorAll("[data-do]")) {
  button.addEventListener("click", () => ask(button.dataset.do));
}
$("ask-cancel").addEventListener("click", () => $("ask").close());
$("ask-go").addEventListener("click", go);
$("ask").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
setInterval(() => {
  if (!document.hidden) look();
  if (picture && Date.now() - seenAt > STALE_MS) {
    $("seen").className = "stale";
    text($("seen"), `this is ${Math.round((Date.now() - seenAt) / 1000)} s old`);
  }
}, EVERY_MS);
look();
follow();
