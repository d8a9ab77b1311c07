// The host's page of browser.mjs: a client in the browser, and ext-apps' bridge around a sandboxed page of its server.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { AppBridge, PostMessageTransport, getToolUiResourceUri } from "@modelcontextprotocol/ext-apps/app-bridge";

const PAGES = { extensions: { "io.modelcontextprotocol/ui": { mimeTypes: ["text/html;profile=mcp-app"] } } };
const ABOUT = { name: "outside", version: "1" };

async function show({ url, prefix, tool, input }) {
  const transport = new StreamableHTTPClientTransport(new URL(url));
  const client = new Client(ABOUT, { capabilities: PAGES });
  await client.connect(transport);
  const shown = (await client.listTools()).tools.find((one) => one.name === prefix + tool);
  const [page] = (await client.readResource({ uri: getToolUiResourceUri(shown) })).contents;
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  frame.style = "width: 900px; height: 700px";
  document.body.append(frame);
  const bridge = new AppBridge(client, ABOUT, { openLinks: {}, serverTools: {}, serverResources: {} });
  bridge.oninitialized = async () => {
    await bridge.sendToolInput({ arguments: input ?? {} });
    await bridge.sendToolResult(await client.callTool({ name: prefix + tool, arguments: input ?? {} }));
    // From here on only the page calls.
    const send = transport.send.bind(transport);
    transport.send = (message, options) => {
      if (message.method === "tools/call") window.called.push(message.params.name);
      return send(message, options);
    };
    window.stage = "shown";
  };
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  frame.srcdoc = page.text ?? atob(page.blob);
}

window.called = [];
show(JSON.parse(decodeURIComponent(location.hash.slice(1)))).catch((error) => (window.stage = `failed: ${error}`));
