// The whole page: its modules put together, keys, files that are dropped, and how it starts.

import { addFiles, prepareAdding, showJobs } from "./adding.js";
import { prepareClip } from "./clip.js";
import { chosenName, chosenOnceLoaded, loadCollections, prepareCollections } from "./collections.js";
import { showModel } from "./models.js";
import { $ } from "./parts.js";
import { fail, loading } from "./results.js";
import { added, prepareSearching, refresh, show } from "./searching.js";

prepareAdding(chosenOnceLoaded, added);
prepareClip(refresh);
prepareCollections(() => {
  refresh();
  followJobs();
}, () => {
  $("query").value = "";
  return show();
});
prepareSearching();

const carriesFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
addEventListener("dragover", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = !chosenName();
});
addEventListener("dragleave", (event) => event.relatedTarget === null && ($("drop").hidden = true));
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  $("drop").hidden = true;
  if (chosenName()) addFiles(chosenName(), [...event.dataTransfer.files], added);
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    $("query").select();
  } else if (event.key.startsWith("Arrow") && event.target.matches(".card")) {
    moveFocus(event);
  } else if (event.key === "ArrowDown" && event.target === $("query")) {
    document.querySelector(".card")?.focus();
  }
});

function moveFocus(event) {
  const cards = [...document.querySelectorAll(".card")];
  const columns = getComputedStyle($("results")).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const next = cards[cards.indexOf(event.target) + step];
  event.preventDefault();
  if (next) next.focus();
  else if (event.key === "ArrowUp") $("query").focus();
}

function followJobs() {
  if (chosenName()) showJobs(chosenName(), added).catch(() => {}); // what is shown besides says what is wrong
}

async function start() {
  const query = new URLSearchParams(location.search);
  $("query").value = query.get("q") || "";
  loading();
  try {
    await loadCollections(query.get("collection"));
    showModel().catch(() => {});
    followJobs();
    await show();
  } catch (error) {
    fail(error, start);
  }
}

start();
