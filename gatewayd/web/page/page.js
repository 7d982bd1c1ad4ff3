// The page: follows /flow/events, draws what comes, asks the daemon for what a person wants done.

import { bytes, clock, h, labelChart, line, ms, num, picture, plural, span } from "/draw.js";

const $ = (id) => document.getElementById(id);
const cards = new Map();
let flow = null, history = null, stream = null, deadShown = -1, hadPending = false, wait = 1000, lastAt = 0;

const said = new Map();
function text(id, words) {  // only what changed, so that a screen reader speaks only then
  if (said.get(id) === words) return;
  said.set(id, words);
  $(id).textContent = words;
}

// Which of the states the page is in, and the sentence on top.
function situation(f) {
  const all = Object.values(f.routes), sinks = Object.entries(f.sinks);
  const inRate = f.broker.received_per_s, pending = f.spool.pending_total;
  const away = sinks.filter(([, sink]) => sink.state === "away").map(([name]) => name);
  const error = f.troubles.find((each) => each.level === "error");
  const came = all.some((route) => (route.book.received || 0) > 0 || route.received_per_s > 0);
  hadPending = hadPending || pending > 0;
  if (error) return ["error", error.words, error.hint];
  if (away.length) {
    return ["offline", `Offline: ${away.join(", ")} cannot be reached. ${plural(pending, "result")} wait in the spool.`,
      "Messages are handled and local results go out as always. Delivery goes on by itself when the cloud is back."];
  }
  if (!came) return ["empty", "Ready. No messages have come yet.", `Publish one to see it here, for example: ${example(f)}`];
  if (pending > 20 && sinks.some(([, sink]) => sink.delivered_per_s > 0) && pending > 5 * inRate) {
    return ["draining", `Delivering: ${plural(pending, "result")} still wait.`, ""];
  }
  if (inRate === 0) {
    const words = pending ? `${plural(pending, "result")} wait for delivery.` : sinks.length ? "Everything is delivered." : "Everything is handled.";
    return [pending ? "draining" : "drained", `Quiet: no messages right now. ${words}`, ""];
  }
  return ["busy", `Working: ${num(inRate)} messages/s in${pending > 20 ? `, ${plural(pending, "result")} on the way` : ", everything is delivered"}.`, ""];
}

function example(f) {
  const topic = Object.values(f.routes).flatMap((route) => route.topics)[0];
  if (!topic) return "a route first, in config.toml.";
  const concrete = topic.replace(/^\$share\/[^/]+\//, "").replaceAll("+", "test").replaceAll("#", "test");
  const host = f.broker.host.startsWith("/") ? `--unix ${f.broker.host}` : `-h ${f.broker.host} -p ${f.broker.port}`;
  return `mosquitto_pub ${host} -q 1 -t '${concrete}' -m '…'`;
}

function showNow(f) {
  const [state, headline, subline] = situation(f);
  document.body.dataset.state = state;
  text("headline", headline);
  text("subline", subline);
  text("gateway", f.gateway);
  document.title = `${f.gateway} – gatewayd`;
  text("facts", `version ${f.version}, up ${span(f.uptime_s)}`);
  const shown = f.troubles.filter((each) => each.words !== headline);
  const key = JSON.stringify(shown);
  if (said.get("troubles") !== key) {
    said.set("troubles", key);
    $("troubles").replaceChildren(...shown.map((each) => h("li", { class: each.level }, each.words, h("span", {}, each.hint))));
  }
  showSwitches(f.switches || {});
}

function showSwitches(switches) {
  const box = $("switches"), names = Object.keys(switches);
  box.hidden = names.length === 0;
  for (const name of names) {
    let button = document.getElementById(`switch-${name}`);
    if (!button) {
      button = h("button", { id: `switch-${name}`, role: "switch", type: "button", click: () => {
        ask(`/switch/${name}`, { on: button.getAttribute("aria-checked") !== "true" }).catch((error) => text("subline", error.message));
      } }, switches[name].words);
      box.append(button);
    }
    button.setAttribute("aria-checked", String(switches[name].on));
  }
}

function sinkState(sink) {
  return { confirms: ["ok", "confirms"], away: ["bad", "away"], "over its monthly cap": ["warn", "over its cap"] }[sink.state] || ["", "nothing sent yet"];
}

function routeState(route) {
  return route.state === "running" ? ["ok", "running"] : route.state === "starting" ? ["warn", "starting"] : ["bad", "waits for its model"];
}

function showPicture(f) {
  const routes = Object.entries(f.routes), models = Object.entries(f.models), sinks = Object.entries(f.sinks);
  const broker = f.broker, link = !broker.connected ? ["bad", "not connected"] : broker.subscribed ? ["ok", "connected"] : ["warn", "not subscribed"];
  const share = f.spool.used_bytes / f.spool.max_bytes;
  const stages = [
    { head: "Broker", boxes: [{ key: "broker", title: `${broker.host}:${broker.port}`, state: link[0], word: link[1], lines: [link[1], `${num(broker.received_per_s)} messages/s in`] }] },
    { head: "Routes", boxes: routes.map(([name, route]) => {
      const [state, word] = routeState(route);
      return { key: `r ${name}`, title: name, state, word, lines: [word, `${num(route.received_per_s)}/s in, ${num(route.results_per_s)}/s out`] };
    }) },
    { head: "Models", boxes: models.length ? models.map(([name, model]) => ({ key: `m ${name}`, title: name, state: model.loaded ? "ok" : "", word: model.loaded ? "loaded" : "not in memory",
      lines: [model.loaded ? `loaded, ${bytes(model.memory_bytes)}` : "not in memory", model.is_language ? `${num(model.tokens_per_s)} tokens/s` : `${num(model.calls_per_s)} calls/s`] }))
      : [{ key: "m", title: "none", state: "", word: "", lines: ["rules alone"] }] },
    { head: "Spool", boxes: [{ key: "spool", title: `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} % full`, state: share > 0.9 ? "bad" : share > 0.7 ? "warn" : "ok", word: "on disk",
      lines: [`${plural(f.spool.pending_total, "result")} wait`, `${bytes(f.spool.used_bytes)} of ${bytes(f.spool.max_bytes)}`] }] },
    { head: "Sinks", boxes: sinks.length ? sinks.map(([name, sink]) => {
      const [state, word] = sinkState(sink);
      return { key: `s ${name}`, title: name, state, word, lines: [word, `${num(sink.delivered_per_s)}/s delivered`] };
    }) : [{ key: "s", title: "none", state: "", word: "", lines: ["results stay on the bus"] }] },
  ];
  const edges = [];
  for (const [name, route] of routes) {
    edges.push({ from: "broker", to: `r ${name}`, on: route.received_per_s > 0, cut: !broker.connected });
    const used = route.models.filter((model) => f.models[model]);
    for (const model of used) {
      edges.push({ from: `r ${name}`, to: `m ${model}`, on: route.received_per_s > 0 }, { from: `m ${model}`, to: "spool", on: route.results_per_s > 0 });
    }
    if (!used.length) edges.push({ from: `r ${name}`, to: models.length ? "spool" : "m", on: route.results_per_s > 0, cut: route.state !== "running" && route.state !== "starting" });
  }
  if (!models.length) edges.push({ from: "m", to: "spool", on: routes.some(([, route]) => route.results_per_s > 0) });
  for (const [name, sink] of sinks) edges.push({ from: "spool", to: `s ${name}`, on: sink.delivered_per_s > 0, cut: sink.state === "away" });
  const words = `Broker ${link[1]}, ${num(broker.received_per_s)} messages a second in; ${plural(routes.length, "route")}; `
    + `${plural(f.spool.pending_total, "result")} wait in the spool; ${sinks.map(([name, sink]) => `${name} ${sinkState(sink)[1]}`).join(", ") || "no sinks"}.`;
  $("picture").replaceChildren(picture(stages, edges, Math.max(260, $("picture").clientWidth || 1100), words));
}

function tile(value, words) {
  return h("div", {}, h("b", {}, value), h("span", {}, words));
}

function inWords(result) {
  const data = result.data || {};
  if (data.summary) return typeof data.summary === "object" ? `${data.summary.headline || JSON.stringify(data.summary)}` : String(data.summary);
  const parts = [];
  if (data.state) parts.push(data.state);
  if (typeof data.score === "number") parts.push(data.score.toFixed(2));
  if (data.value !== undefined) parts.push(String(typeof data.value === "number" ? +data.value.toPrecision(5) : data.value));
  if (data.provisional) parts.push("provisional");
  return parts.join(", ");
}

function cardOf(name) {
  let card = cards.get(name);
  if (!card) {
    const part = (tag, attributes) => h(tag, attributes);
    card = { head: part("div", { class: "row" }), facts: part("p", { class: "dim" }), tiles: part("div", { class: "tiles" }), chart: part("div"), latest: part("div"), more: part("div") };
    card.whole = h("article", { class: "card", "data-route": name, "aria-label": `Route ${name}` }, card.head, card.facts, card.tiles, card.chart, card.latest, card.more);
    cards.set(name, card);
    $("routes").append(card.whole);
  }
  return card;
}

function showRoute(name, route) {
  const card = cardOf(name), [state, word] = routeState(route);
  card.head.replaceChildren(h("h3", {}, name), h("span", { class: `pill ${state}` }, word));
  card.facts.replaceChildren(`${route.handler} on `, h("code", {}, route.topics.join(", ")), route.sinks.length ? ` to ${route.sinks.join(", ")}` : " to the local bus alone");
  const age = route.age_ms || route.call_ms;
  card.tiles.replaceChildren(
    tile(num(route.received_per_s), "messages/s"),
    tile(age ? ms(age.p50) : "–", route.age_ms ? "p50, arrival to answer" : "p50 of the handler's call"),
    tile(age ? ms(age.p99) : "–", "p99"));
  card.latest.replaceChildren(h("h4", {}, "Latest results"), route.latest.length
    ? h("ol", { class: "latest" }, route.latest.slice(0, 6).map((result) => h("li", {}, h("time", {}, clock(result.time)), h("span", { title: result.subject }, h("b", {}, result.label), ` ${inWords(result)} `, h("span", { class: "dim" }, result.subject)))))
    : h("p", { class: "dim" }, route.problem ? `None: ${route.problem}` : "None yet."));
  const book = route.book, rows = [["Handled", num(book.handled ?? 0)], ["Waiting, journaled", `${num(route.waiting)}, ${num(route.journaled)}`]];
  for (const [lineName, reasons] of Object.entries(book.reasons || {})) {
    rows.push([lineName === "dead" ? "Dead letters" : lineName[0].toUpperCase() + lineName.slice(1), Object.entries(reasons).map(([why, n]) => `${num(n)} ${why}`).join(", ")]);
  }
  if (route.cascade) rows.push(...escalations(route.cascade));
  card.more.replaceChildren(h("h4", {}, "Counted since the spool was made"), h("dl", {}, rows.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])));
}

function escalations(cascade) {
  const rows = [["Escalations waiting", num(cascade.waiting)]];
  for (const [tier, causes] of Object.entries(cascade.decisions || {})) {
    rows.push([`Tier ${tier}`, Object.entries(causes).map(([cause, n]) => `${num(n)} ${cause}`).join(", ")]);
  }
  return rows;
}

function showCharts() {
  for (const [name, each] of Object.entries(history.routes)) {
    const names = Object.keys(each.labels), n = names.length ? each.labels[names[0]].length : 0;
    const sum = (label) => each.labels[label].reduce((a, b) => a + b, 0);
    const words = names.length ? `Labels of the last ${span(n * history.every_s)}: ${names.map((label) => `${label} ${sum(label)}`).join(", ")}` : "No labels yet";
    cardOf(name).chart.replaceChildren(h("h4", {}, `Labels, last ${span(Math.max(n, 20) * history.every_s)}${each.is_sampled ? " (estimated)" : ""}`), labelChart(each.labels, n, words),
      h("ul", { class: "legend" }, names.map((label, index) => h("li", {}, h("i", { class: `s${index % 9}` }), `${label} `, h("b", {}, num(sum(label)))))));
  }
}

function showSpool(f) {
  const spool = f.spool, share = spool.used_bytes / spool.max_bytes;
  const lost = spool.lost.map((each) => h("tr", {}, h("td", {}, each.what === "messages" ? each.route : `${each.route} → ${each.sink}`), h("td", {}, each.line), h("td", {}, each.reason), h("td", { class: "n" }, num(each.n))));
  const books = f.books.balanced === undefined ? null : h("p", { class: f.books.balanced ? "ok" : "bad" }, f.books.balanced ? "Both books balance." : "THE BOOKS DO NOT BALANCE.");
  $("spool").replaceChildren(
    h("label", { for: "used" }, `${bytes(spool.used_bytes)} of ${bytes(spool.max_bytes)}`),
    h("progress", { id: "used", max: 1, value: share.toFixed(4) }),
    h("dl", {}, [["Results waiting", num(spool.pending_total)], ["Oldest", spool.pending_total ? span(spool.oldest_age_s) : "–"], ["Messages in the journal", num(spool.journaled)], ["Dead letters", num(spool.dead_letters)]].map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])),
    h("h4", {}, "Results waiting, over time"), history ? line(history.pending, `Results waiting: ${num(spool.pending_total)} now, most ${num(Math.max(0, ...history.pending))}`) : "",
    h("h4", {}, "Lost or put aside, and why"),
    lost.length ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Where", "What", "Why"].map((word) => h("th", { scope: "col" }, word)), h("th", { scope: "col", class: "n" }, "How many"))), h("tbody", {}, lost)))
      : h("p", { class: "dim" }, "Nothing."),
    books);
}

function showSinks(f) {
  const names = Object.keys(f.sinks);
  $("sinks").replaceChildren(...(names.length ? names.map((name) => {
    const sink = f.sinks[name], [state, word] = sinkState(sink), failed = sink.last_error;
    const rows = [["Delivered", num(sink.delivered)], ["Waiting", num(sink.pending)], ["Rate", `${num(sink.delivered_per_s)}/s`], ["Refused for good", num(sink.refused)], ["Evicted, expired", `${num(sink.evicted)}, ${num(sink.expired)}`], ["Retries since the start", num(sink.retries)],
      ["Sent today, this month", `${bytes(sink.today_bytes)}, ${bytes(sink.month_bytes)}${sink.max_bytes_per_month ? ` of ${bytes(sink.max_bytes_per_month)}` : ""}`]];
    return h("div", { "data-sink": name }, h("div", { class: "row" }, h("h3", {}, `${name} (${sink.type})`), h("span", { class: `pill ${state}` }, word)),
      h("dl", {}, rows.map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])),
      failed ? h("p", { class: "dim" }, `Last failure at ${clock(failed.time)}: ${failed.words}`) : "");
  }) : [h("p", { class: "dim" }, "No sink: results stay on the local bus. Add a table [sinks.<name>] to config.toml.")]),
  ...Object.entries(f.tiers).map(([name, tier]) => h("p", {}, `Tier ${name}: `, h("b", {}, tier.state), ` (${tier.place})`)));
}

function showModels(f) {
  const rows = Object.entries(f.models).map(([name, model]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, model.version), h("td", {}, h("code", { title: model.digest }, model.digest.slice(0, 12) || "–")), h("td", {}, model.runtime),
    h("td", { class: "n" }, model.loaded ? bytes(model.memory_bytes) : "not loaded"), h("td", { class: "n" }, num(model.calls_per_s)), h("td", { class: "n" }, model.is_language ? num(model.tokens_per_s) : "–")));
  const temperatures = Object.values(f.board.temperatures_c || {}).map((each) => `${each.name} ${each.now.toFixed(1)} °C`);
  const board = [...temperatures, f.board.load ? `load ${f.board.load.map((n) => n.toFixed(2)).join(", ")}` : "", f.board.hot ? "HOT" : ""].filter(Boolean);
  $("models").replaceChildren(rows.length ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Model", "Version", "Digest", "Runtime"].map((word) => h("th", { scope: "col" }, word)), ["Memory", "Calls/s", "Tokens/s"].map((word) => h("th", { scope: "col", class: "n" }, word)))), h("tbody", {}, rows)))
    : h("p", { class: "dim" }, "No model is in use."), h("p", {}, `Board: ${board.join(" · ") || "tells nothing of itself"}`));
}

async function ask(path, body) {
  const answer = await fetch(path, body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json", "X-Gatewayd": "1" }, body: JSON.stringify(body) });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error((await answer.text()).trim() || `the daemon answered ${answer.status}`);
  return answer.json();
}

async function showDead() {
  let found;
  try { found = await ask("/dead?limit=50"); } catch (error) { text("dead-said", error.message); deadShown = -1; return; }
  const letters = found.letters;
  $("dead").hidden = $("dead-tools").hidden = letters.length === 0;
  text("dead-words", letters.length ? `${found.more ? "The newest 50 of" : ""} ${num(flow.spool.dead_letters)} messages and results that could not be handled or were refused.`.trim() : "None. What cannot be handled, or is refused by a sink, waits here for a person.");
  $("dead").tBodies[0].replaceChildren(...letters.map((letter) => h("tr", { "data-id": letter.id },
    h("td", {}, h("code", {}, letter.id)), h("td", {}, letter.sink ? `${letter.route} → ${letter.sink}` : letter.route), h("td", {}, h("b", {}, letter.damaged ? "damaged" : letter.reason), h("br"), h("span", { class: "dim" }, (letter.detail || "").slice(0, 90))),
    h("td", {}, letter.topic || ""), h("td", {}, letter.time ? clock(letter.time) : ""),
    h("td", { class: "tools" }, [["Read", () => read(letter.id)], ["Requeue", () => change("requeue", { ids: [letter.id] })], ["Purge", () => confirmed("purge", { ids: [letter.id] }, letter.id)]]
      .map(([word, act]) => [h("button", { type: "button", "aria-label": `${word} ${letter.id}`, click: act }, word), " "])))));
}

function dialog(title, body, words, act, isDanger) {
  text("dialog-title", title);
  $("dialog-body").replaceChildren(...body);
  $("dialog-do").hidden = !words;
  $("dialog-do").textContent = words;
  $("dialog-do").className = isDanger ? "danger" : "";
  $("dialog-do").onclick = () => { $("dialog").close(); act(); };
  $("dialog").showModal();
}

async function read(id) {
  try {
    const letter = await ask(`/dead/${id}`);
    dialog(`Dead letter ${id}`, [h("dl", {}, [["Route", letter.route], ["Sink", letter.sink || "–"], ["Why", letter.reason], ["Topic", letter.topic], ["Size", bytes(letter.size || 0)]].map(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])),
      h("h4", {}, "Detail"), h("pre", { tabindex: 0 }, letter.detail || "–"), h("h4", {}, "Payload"), h("pre", { tabindex: 0 }, letter.payload ?? letter.hidden)], "Requeue", () => change("requeue", { ids: [id] }), false);
  } catch (error) { text("dead-said", error.message); }
}

function confirmed(what, wanted, whom) {
  dialog(what === "purge" ? `Purge ${whom}?` : `Requeue ${whom}?`, [h("p", {}, what === "purge" ? "It is given up for good. To keep a copy, export it on the box first: gatewayd spool export --dead -o FILE" : "They are handled, or sent, once more.")], what === "purge" ? "Purge" : "Requeue", () => change(what, wanted), what === "purge");
}

async function change(what, wanted) {
  text("dead-said", "The daemon was asked …");
  try {
    const answer = await ask(`/dead/${what}`, wanted);
    const left = Object.entries(answer.left || {}).map(([why, n]) => `${n} left: ${why}.`).join(" ");
    text("dead-said", answer.waits ? answer.words : `${plural(answer.n, "dead letter")} ${what === "purge" ? "purged" : "requeued"}. ${left} ${answer.error || ""}`.trim());
  } catch (error) { text("dead-said", `Not done: ${error.message}`); }
  await showDead();
  for (const later of [1500, 5000]) setTimeout(showDead, later);  // what was requeued may fail again
}

const LEVELS = { debug: 10, info: 20, warning: 30, error: 40, critical: 50 };
function addLog(entry) {
  const list = $("log"), isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 30;
  const fields = Object.entries(entry.fields).map(([key, value]) => `${key}=${value}`).join(" ");
  list.append(h("li", { class: `l${LEVELS[entry.level] || 20}` }, h("span", { class: "dim" }, `${clock(entry.time)} `), h("b", { class: entry.level === "error" ? "bad" : entry.level === "warning" ? "warn" : "" }, entry.level), ` ${entry.event} `, h("span", { class: "dim" }, fields)));
  while (list.children.length > 200) list.firstChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function show() {
  showNow(flow);
  showPicture(flow);
  for (const [name, route] of Object.entries(flow.routes)) showRoute(name, route);
  showSpool(flow);
  showSinks(flow);
  showModels(flow);
  if (flow.spool.dead_letters !== deadShown) { deadShown = flow.spool.dead_letters; showDead(); }
}

function linked(isThere) {
  $("link").className = `pill ${isThere ? "ok" : "bad"}`;
  text("link", isThere ? "live" : "not connected");
}

async function gone() {
  stream.close();
  linked(false);
  document.body.dataset.state = "gone";
  text("headline", "The daemon does not answer.");
  text("subline", `${lastAt ? `What you see is as of ${clock(lastAt)}. ` : ""}Asked again and again; on the box: systemctl status gatewayd`);
  const answer = await fetch("/healthz").then(() => fetch("/status")).catch(() => null);
  if (answer && answer.status === 401) { location.assign("/login"); return; }
  setTimeout(follow, wait);
  wait = Math.min(10000, wait * 1.5);
}

function follow() {
  stream = new EventSource("/flow/events");
  stream.addEventListener("open", () => { $("log").replaceChildren(); deadShown = -1; });
  stream.addEventListener("flow", (event) => { flow = JSON.parse(event.data); lastAt = flow.time; wait = 1000; linked(true); show(); });
  stream.addEventListener("history", (event) => { history = JSON.parse(event.data); showCharts(); if (flow) showSpool(flow); });
  stream.addEventListener("log", (event) => addLog(JSON.parse(event.data)));
  stream.addEventListener("error", gone);
}

$("requeue-all").addEventListener("click", () => confirmed("requeue", { all: true }, "all dead letters"));
$("purge-all").addEventListener("click", () => confirmed("purge", { all: true }, "all dead letters"));
$("dialog-close").addEventListener("click", () => $("dialog").close());
$("level").addEventListener("change", () => { $("log").dataset.level = $("level").value; });
addEventListener("resize", () => { if (flow) showPicture(flow); });
fetch("/session").then((answer) => answer.json()).then((session) => { $("logout").hidden = !session.login; }).catch(() => {});
follow();
