// Entry point: connects the modules and loads the page.

import { prepareAddDialog } from "./add_dialog.js";
import { currentName, currentNameOnceLoaded, loadCollections, prepareCollections } from "./collections.js";
import { $ } from "./dom.js";
import { prepareDropTarget } from "./drop_target.js";
import { clearFacets, prepareFacets } from "./facets.js";
import { prepareFilter } from "./filter_form.js";
import { onNavigate, openedVideo, recordClosed } from "./history.js";
import { followJobs, prepareJobs } from "./jobs.js";
import { moveFocus, showError, showLoading } from "./results.js";
import { onVideosAdded, prepareSearch, reload, search, showResults, startRequest } from "./search.js";
import { isOtherSearch, loadFromAddress, saveToAddress, showChips, showMinRelevance } from "./search_state.js";
import { lazyPanel, openPanelFromAddress, preparePanels, showModel } from "./side_panel.js";
import { clearSimilar, prepareSimilar, similarQuery } from "./similar_query.js";
import { createToast } from "./toasts.js";

prepareAddDialog(currentNameOnceLoaded, onVideosAdded);
prepareCollections(showCollection, () => {
  $("sheet").close();
  $("query").value = "";
  return showCollection();
});
prepareDropTarget(search, onVideosAdded);
prepareFacets(search);
prepareFilter(search);
prepareSimilar(() => (showMinRelevance(true), showChips(search)), search);
prepareSearch();
prepareJobs(onVideosAdded);
preparePanels({
  jobs: lazyPanel(() => import("./jobs_panel.js")),
  collections: lazyPanel(() => import("./collections_panel.js"), {
    reload: loadCollections,
    added: onVideosAdded,
    choose: (name) => loadCollections(name).then(showCollection),
    dropped: async () => (await loadCollections(), showCollection()),
  }),
  models: lazyPanel(() => import("./models_panel.js")),
  keys: lazyPanel(() => import("./keys_panel.js")),
});

function showCollection() {
  clearCollectionState();
  saveToAddress();
  showModel();
  followJobs();
  return reload();
}

// Clips and metadata fields belong to one collection.
function clearCollectionState() {
  clearFacets();
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

let starts = 0;

async function start() {
  startRequest(); // a late response would change the form
  const requestedName = loadFromAddress();
  const number = ++starts;
  showLoading();
  try {
    await loadCollections(requestedName || undefined);
    if (number !== starts) return; // another has begun
    const modelShown = showModel();
    followJobs();
    saveToAddress(true);
    if (requestedName && requestedName !== currentName()) {
      createToast(`Collection ${requestedName}`).fail(`It does not exist, or your API key has no access to it.${currentName() ? ` Showing ${currentName()} instead.` : ""}`);
      recordClosed(); // the linked video is not in this collection
    }
    if (openedVideo()) modelShown.then(openFromAddress); // its forms depend on the model
    else openFromAddress();
    openPanelFromAddress();
    await showResults();
    import("./clip_dialog.js").catch(() => {}); // ahead of the first click
  } catch (error) {
    showError(error, start);
  }
}

// Open the linked video, or close the dialog if there is none.
async function openFromAddress() {
  const link = openedVideo();
  if (!link) $("clip").close();
  else await import("./deep_link.js").then(({ openLink }) => openLink(link)).catch((error) => createToast("Link").fail(error.message));
}

onNavigate(() => {
  if (!isOtherSearch()) return openFromAddress();
  $("clip").close();
  return start();
});

start();
