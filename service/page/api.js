// Requests to the server that this page came from. Paths are relative, so that it may lie under a prefix.

/** What went wrong, as the server's problem object says it. */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0, request_id: requestId = "" }) {
    super(detail || title);
    Object.assign(this, { title, detail, status, requestId });
  }
}

async function ask(path, { key, ...options }) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "No answer", detail: "The server cannot be reached, or closed the connection." });
  }
  if (response.ok) return response;
  const text = await response.text();
  let problem = {};
  try {
    problem = JSON.parse(text);
  } catch {
    // Something between this page and the server answered.
  }
  throw new Problem({ title: `The answer was ${response.status}`, status: response.status, ...problem });
}

/** Names, versions and state of all models. */
export async function listModels(key) {
  return (await (await ask("v1/models", { key })).json()).models;
}

/** Description of each version of a model, the newest last. */
export async function describeVersions(name, key) {
  return (await (await ask(`v1/models/${encodeURIComponent(name)}`, { key })).json()).versions;
}

/**
 * The server's answer.
 * @param {{model: string, version: string, query: URLSearchParams}} wish  version "": the newest
 * @param {{key: string, signal: AbortSignal, accept: string}} options
 */
export function segment(file, { model, version, query }, { key, signal, accept = "application/json" }) {
  const at = version ? `/versions/${encodeURIComponent(version)}` : "";
  const headers = { "Content-Type": "application/octet-stream", Accept: accept };
  const path = `v1/models/${encodeURIComponent(model)}${at}/segment?${query}`;
  return ask(path, { method: "POST", body: file, headers, key, signal });
}
