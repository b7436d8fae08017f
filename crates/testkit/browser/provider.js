// An OpenID Connect provider of another maker (Node's oidc-provider), behind a proxy that it believes.
//
//   node provider.js OPTIONS
//
// OPTIONS is JSON: `host` and `port` to listen on, `issuer`, `client` (as it registers clients), `users` (claims by name).

import { createRequire } from "node:module";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const require = createRequire(new URL("../../../target/browser/", import.meta.url));
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

const { host, port, issuer, client, users } = JSON.parse(process.argv[2]);
const provider = new Provider(issuer, {
  clients: [client],
  cookies: { keys: ["of a test"] },
  claims: { openid: ["sub"], email: ["email", "email_verified"], groups: ["groups"] },
  findAccount: (_, id) => users[id] && { accountId: id, claims: () => ({ sub: id, ...users[id] }) },
  // Nobody is asked whether the client may know who it is.
  async loadExistingGrant({ oidc }) {
    const grant = new provider.Grant({ clientId: oidc.client.clientId, accountId: oidc.session.accountId });
    grant.addOIDCScope("openid email groups");
    await grant.save();
    return grant;
  },
});
provider.proxy = true;
provider.on("server_error", (_, error) => console.log("server_error", error.stack));
createServer(provider.callback()).listen(port, host, () => console.log("ready"));
