// The whole page: its modules put together, keys, and how it starts.

import { prepareAddDialog } from "./add_dialog.js";
import { openedVideo, recordClosed, onNavigate } from "./history.js";
import { openedVideoId, prepareClipDialog } from "./clip_dialog.js";
import { currentName, currentNameOnceLoaded, loadCollections, prepareCollections } from "./collections.js";
import { showDefaultModel } from "./default_model.js";
import { prepareDropTarget } from "./drop_target.js";
import { clearKnownFields, prepareFilter } from "./filter_form.js";
import { followJobs, prepareJobs } from "./jobs.js";
import { clearSimilar, similarQuery, prepareSimilar } from "./similar_query.js";
import { createToast } from "./toasts.js";
import { $ } from "./dom.js";
import { showError, showLoading, moveFocus } from "./results.js";
import { onVideosAdded, findSimilar, loadFilterFields, prepareSearch, refresh, search, showResults } from "./search.js";
import { lazyPanel, openPanelFromAddress, preparePanels } from "./side_panel.js";
import { isOtherSearch, loadFromAddress, saveToAddress, showChips } from "./search_state.js";

prepareAddDialog(currentNameOnceLoaded, onVideosAdded);
prepareClipDialog(refresh, findSimilar);
prepareCollections(showCollection, () => {
  $("sheet").close();
  clearCollectionState();
  $("query").value = "";
  saveToAddress();
  return showResults();
});
prepareDropTarget(search, onVideosAdded);
prepareFilter(loadFilterFields, search);
prepareSimilar(() => showChips(search), search);
prepareSearch();
prepareJobs(onVideosAdded);
preparePanels({
  jobs: lazyPanel(() => import("./jobs_panel.js"), ({ showJobsPanel }, panel) => showJobsPanel(panel)),
  collections: lazyPanel(() => import("./collections_panel.js"), ({ showCollectionsPanel }, panel) => showCollectionsPanel(panel, {
    reload: loadCollections,
    added: onVideosAdded,
    choose: (name) => loadCollections(name).then(showCollection),
    dropped: async () => (await loadCollections(), showCollection()),
  })),
  models: lazyPanel(() => import("./models_panel.js"), ({ showModelsPanel }, panel) => showModelsPanel(panel)),
  keys: lazyPanel(() => import("./keys_panel.js"), ({ showKeysPanel }, panel) => showKeysPanel(panel)),
});

// At the collection that was chosen.
function showCollection() {
  clearCollectionState();
  saveToAddress();
  followJobs();
  return refresh();
}

// Clips and fields of another collection mean nothing in this one.
function clearCollectionState() {
  clearKnownFields();
  if (similarQuery()?.clip) clearSimilar();
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
  const requestedName = loadFromAddress();
  showLoading();
  try {
    await loadCollections(requestedName);
    showDefaultModel().catch(() => {});
    followJobs();
    saveToAddress();
    if (requestedName && requestedName !== currentName()) {
      createToast(`Collection ${requestedName}`).fail(`It is not here, or not for the key of this tab.${currentName() ? ` This is ${currentName()}.` : ""}`);
      recordClosed(); // what is open by the address is none of this one's
    }
    openFromAddress();
    openPanelFromAddress();
    await showResults();
  } catch (error) {
    showError(error, start);
  }
}

// Opens what the address has open, and closes what it has not.
async function openFromAddress() {
  const link = openedVideo();
  if (!link) $("clip").close();
  else if (link.video !== openedVideoId()) await import("./deep_link.js").then(({ openLink }) => openLink(link)).catch((error) => createToast("Link").fail(error.message));
}

onNavigate(() => {
  if (!isOtherSearch()) return openFromAddress();
  $("clip").close();
  return start();
});

start();
