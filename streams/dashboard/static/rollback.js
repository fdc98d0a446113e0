// The rollback dialog. The token goes into one request and is forgotten.

import { say } from "./dom.js";

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
    const stable = state.releases?.decisions[0]?.stable_version;
    const target = stable === undefined ? "the stable version" : `version ${stable}, the stable one`;
    say(find("rollback-what"), `All shoppers are answered by ${target} at once. Newer versions are withdrawn, and learning goes on from there.`);
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
    send.disabled = true;
    tell("Asking …");
    try {
      const answer = await fetch(ROUTE, {
        method: "POST",
        headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
        body: JSON.stringify({ reason: find("rollback-reason").value.trim() }),
      });
      const told = await answer.json().catch(() => ({}));
      if (answer.ok) {
        tell(told.message ?? `Rolled back to version ${told.stable_version ?? ""}.`, "good");
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
