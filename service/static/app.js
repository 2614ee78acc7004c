// The whole page: its modules put together, keys, and how it starts.

import { prepareAdding, showJobs } from "./adding.js";
import { prepareClip } from "./clip.js";
import { chosenName, chosenOnceLoaded, loadCollections, prepareCollections } from "./collections.js";
import { prepareDropping } from "./dropping.js";
import { forgetFields, prepareFilter } from "./filtering.js";
import { forgetLikeness, likeness, prepareLikeness } from "./likeness.js";
import { showModel } from "./models.js";
import { $ } from "./parts.js";
import { fail, loading, moveFocus } from "./results.js";
import { added, likeThis, meetVideos, prepareSearching, refresh, search, show } from "./searching.js";
import { isElsewhere, recall, remember, showChips } from "./wanted.js";

prepareAdding(chosenOnceLoaded, added);
prepareClip(refresh, likeThis);
prepareCollections(() => {
  leave();
  remember();
  refresh();
  followJobs();
}, () => {
  leave();
  $("query").value = "";
  remember();
  return show();
});
prepareDropping(search, added);
prepareFilter(meetVideos, search);
prepareLikeness(() => showChips(search), search);
prepareSearching();

// Clips and fields of another collection mean nothing in this one.
function leave() {
  forgetFields();
  if (likeness()?.clip) forgetLikeness();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "/" && !isTyping && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    $("query").select();
  } else if (event.key.startsWith("Arrow") && event.target.matches(".card")) {
    moveFocus(event, $("query"));
  } else if (event.key === "ArrowDown" && event.target === $("query")) {
    document.querySelector(".card")?.focus();
  }
});

function followJobs() {
  if (chosenName()) showJobs(chosenName(), added).catch(() => {}); // what is shown besides says what is wrong
}

async function start() {
  const named = recall();
  loading();
  try {
    await loadCollections(named);
    showModel().catch(() => {});
    followJobs();
    remember();
    await show();
  } catch (error) {
    fail(error, start);
  }
}

addEventListener("popstate", () => {
  if (!isElsewhere()) return;
  if ($("clip").open) $("clip").close();
  start();
});

start();
