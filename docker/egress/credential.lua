-- Puts the provider's credential into a request, in place of whatever the client sent.
-- The file is read for every request, so that a new key counts at once; it is some hundred bytes.
local path = os.getenv("EGRESS_CREDENTIAL_FILE")

-- Anthropic, "OAuth tokens" of `claude setup-token`: they go with this entry of anthropic-beta.
local TOKEN, TOKEN_BETA = "^sk%-ant%-oat", "oauth-2025-04-20"

local function read()
    local file = io.open(path, "r")
    local text = file and file:read(4096) or ""
    if file then file:close() end
    -- One word of visible ASCII: anything else could not stand in a header.
    return text:match("^%s*([\33-\126]+)%s*$")
end

local function with_beta(given)
    local entries, found = {}, false
    for number = 0, #given do -- HAProxy counts from 0
        for entry in (given[number] or ""):gmatch("[^,%s]+") do
            found = found or entry == TOKEN_BETA
            table.insert(entries, entry)
        end
    end
    if not found then table.insert(entries, TOKEN_BETA) end
    return table.concat(entries, ",")
end

core.register_action("credential", { "http-req" }, function(txn)
    local credential, http = read(), txn.http
    http:req_del_header("x-api-key")
    http:req_del_header("authorization")
    txn:set_var("txn.credential", credential ~= nil)
    if not credential then return end
    if credential:match(TOKEN) then
        http:req_set_header("authorization", "Bearer " .. credential)
        http:req_set_header("anthropic-beta", with_beta(http:req_get_headers()["anthropic-beta"] or {}))
    else
        http:req_set_header("x-api-key", credential)
    end
end)
