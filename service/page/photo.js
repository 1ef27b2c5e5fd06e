// The file as the browser shows it, if it can.

/** URL and size of the file as a picture, or null where the browser shows none, or another than the server sees. */
export async function openPhoto(file) {
  if (isDeepPng(new Uint8Array(await file.slice(0, 25).arrayBuffer()))) return null;
  const url = URL.createObjectURL(file);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    return null;
  }
  return { url, width: image.naturalWidth, height: image.naturalHeight };
}

/** Whether this is a PNG of 16 bits: browsers drop the lower 8, and 12-bit microscopy turns black. */
function isDeepPng(head) {
  return head[0] === 0x89 && head[1] === 0x50 && head[24] === 16;
}

/** The picture that the server drew; `drawing` is its file. */
export function overlayPhoto(answer) {
  const bytes = Uint8Array.from(atob(answer.overlay), (character) => character.charCodeAt(0));
  const drawing = new Blob([bytes], { type: "image/png" });
  return { url: URL.createObjectURL(drawing), drawing, ...answer.image };
}
