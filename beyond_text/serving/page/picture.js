// Makes the picture of a query small enough for an address, in the browser.

// Longest side in pixels: models look at fewer.
const SIDE = 320;

/** Returns a picture's file as a small JPEG in base64, upright, transparency over white. */
export async function reduced(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("This file is no picture that the browser can read.");
  }
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const address = canvas.toDataURL("image/jpeg", 0.86);
  return address.slice(address.indexOf(",") + 1);
}

/** Returns the picture of a product in base64, to search by it. */
export async function ofProduct(id, index) {
  const answer = await fetch(placeOf(id, index));
  if (!answer.ok) throw new Error(`The product ${id} has no picture to search by.`);
  return reduced(await answer.blob());
}

export const placeOf = (id, index) => `pictures/${encodeURIComponent(id)}?${new URLSearchParams({ index })}`;

/** Returns base64 as the browser's decoder takes it: with its padding. */
export const padded = (text) => text + "=".repeat((4 - (text.length % 4)) % 4);
