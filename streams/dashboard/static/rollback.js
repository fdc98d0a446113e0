// The rollback dialog. The token goes into one request and is forgotten.

import { make, say } from "./dom.js";
import { ago } from "./format.js";

const ROUTE = "/v1/models/rollback";
const find = (id) => document.getElementById(id);

export function rollbackDialog(state) {
  const dialog = find("rollback");
  const said = find("rollback-said");
  const tell = (text, kind = "") => {
    said.className = kind;
    say(said, text);
  };
  find("rollback-open").addEventListener("click", () => {
    say(find("rollback-what"), "All shoppers are answered by that version at once. Newer ones are withdrawn, and learning goes on from there.");
    find("rollback-to").replaceChildren(...choices(state).map(([value, text]) => make("option", { value }, text)));
    tell("");
    dialog.showModal();
    find("rollback-reason").focus();
  });
  find("rollback-cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    find("rollback-token").value = "";
  });
  find("rollback-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const send = find("rollback-send");
    const token = find("rollback-token").value;
    const to = find("rollback-to").value;
    send.disabled = true;
    tell("Asking …");
    try {
      const answer = await fetch(ROUTE, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
        body: JSON.stringify({ reason: find("rollback-reason").value.trim(), to: to === "" ? null : Number(to) }),
      });
      const told = await answer.json().catch(() => ({}));
      if (answer.ok) {
        tell(`Rolled back: version ${told.stable_version} answers all, versions up to ${told.withdrawn_to ?? told.stable_version} are withdrawn.`, "good");
        find("rollback-token").value = "";
      } else if (answer.status === 401 || answer.status === 403) tell(told.message ?? "The token is not the right one.", "bad");
      else if (answer.status === 404 || answer.status === 405) tell("This gateway does not take rollbacks; use: headrace models rollback", "bad");
      else tell(told.message ?? `The gateway answered ${answer.status}.`, "bad");
    } catch (error) {
      tell(`The gateway could not be asked: ${error.message}`, "bad");
    } finally {
      send.disabled = false;
    }
  });
}

/** [value, text] of the versions one can go back to; the empty value stands for the stable one. */
function choices(state) {
  const { stable_version: stable, withdrawn, reported } = state.releases ?? { withdrawn: [] };
  const isGone = (version) => withdrawn.some(([kept, last]) => version > kept && version <= last);
  const whole = (state.versions ?? []).filter((line) => line.whole && line.version !== stable && !isGone(line.version));
  const first = reported ? [["", `version ${stable}, the stable one`]] : [];
  return [...first, ...whole.map((line) => [String(line.version), `version ${line.version}, made ${ago(Math.max(0, state.clockMs() - line.created_ms))}`])];
}
