// The whole page: its modules put together, keys, and how it starts.

import { prepareAdding } from "./adding.js";
import { linked, noteClosed, onTravel } from "./address.js";
import { openVideo, prepareClip } from "./clip.js";
import { chosenName, chosenOnceLoaded, loadCollections, prepareCollections } from "./collections.js";
import { showModel } from "./default_model.js";
import { prepareDropping } from "./dropping.js";
import { forgetFields, prepareFilter } from "./filtering.js";
import { followJobs, prepareJobs } from "./jobs.js";
import { forgetLikeness, likeness, prepareLikeness } from "./likeness.js";
import { line } from "./notices.js";
import { $ } from "./parts.js";
import { fail, loading, moveFocus } from "./results.js";
import { added, likeThis, meetVideos, prepareSearching, refresh, search, show } from "./searching.js";
import { fetched, openFromAddress, preparePanels } from "./sheet.js";
import { isElsewhere, recall, remember, showChips } from "./wanted.js";

prepareAdding(chosenOnceLoaded, added);
prepareClip(refresh, likeThis);
prepareCollections(look, () => {
  $("sheet").close();
  leave();
  $("query").value = "";
  remember();
  return show();
});
prepareDropping(search, added);
prepareFilter(meetVideos, search);
prepareLikeness(() => showChips(search), search);
prepareSearching();
prepareJobs(added);
preparePanels({
  jobs: fetched(() => import("./job_cards.js"), ({ showJobsPanel }, panel) => showJobsPanel(panel)),
  collections: fetched(() => import("./library.js"), ({ showCollectionsPanel }, panel) => showCollectionsPanel(panel, {
    reload: loadCollections,
    added,
    choose: (name) => loadCollections(name).then(look),
    dropped: async () => (await loadCollections(), look()),
  })),
  models: fetched(() => import("./models.js"), ({ showModelsPanel }, panel) => showModelsPanel(panel)),
  keys: fetched(() => import("./access.js"), ({ showKeysPanel }, panel) => showKeysPanel(panel)),
});

// At the collection that was chosen.
function look() {
  leave();
  remember();
  followJobs();
  return refresh();
}

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

async function start() {
  const named = recall();
  loading();
  try {
    await loadCollections(named);
    showModel().catch(() => {});
    followJobs();
    remember();
    if (named && named !== chosenName()) {
      line(`Collection ${named}`).fail(`It is not here, or not for the key of this tab.${chosenName() ? ` This is ${chosenName()}.` : ""}`);
      noteClosed(); // what is open by the address is none of this one's
    }
    followLink();
    openFromAddress();
    await show();
  } catch (error) {
    fail(error, start);
  }
}

// Opens what the address has open, and closes what it has not.
async function followLink() {
  const link = linked();
  if (!link) $("clip").close();
  else if (link.video !== openVideo()) await import("./linking.js").then(({ openLink }) => openLink(link)).catch((error) => line("Link").fail(error.message));
}

onTravel(() => {
  if (!isElsewhere()) return followLink();
  $("clip").close();
  return start();
});

start();
