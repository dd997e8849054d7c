-- SLURM's submit hook on the local cluster: a user's limits without accounting. slurmctld runs it at each submission.
-- local-slurm puts MAX_CPUS, MAX_JOBS, MAX_GPUMEM (bytes) and ARRAY_CAP (1: each array task counts) before it.
local UNIT = {k = 1024, m = 1024^2, g = 1024^3, t = 1024^4}

local function gres_count(spec, name)       -- "gres:gpu:1,gres:gpumem:10G" -> number
   local total = 0
   for item in string.gmatch(spec or "", "[^,]+") do
      item = string.gsub(item, "^gres[:/]", "")
      local n, u = string.match(item, "^" .. name .. "[:=](%d+)(%a?)$")
      if n then
         total = total + tonumber(n) * (UNIT[string.lower(u)] or 1)
      elseif item == name then
         total = total + 1
      end
   end
   return total
end

local function job_gpumem(j)
   local per_node = gres_count(j.tres_per_node, "gpumem")
   local nodes = j.min_nodes
   if nodes == nil or nodes < 1 or nodes >= 65534 then nodes = 1 end
   return per_node * nodes + gres_count(j.tres_per_job, "gpumem")
end

local function array_size(s)                -- "0-7:2%3" or "1,3,5" -> number of tasks
   if s == nil or s == "" then return 1 end
   local n = 0
   s = string.gsub(s, "%%%d+$", "")
   for part in string.gmatch(s, "[^,]+") do
      local a, b, step = string.match(part, "^(%d+)-(%d+):?(%d*)$")
      if a then
         n = n + math.floor((tonumber(b) - tonumber(a)) / (tonumber(step) or 1)) + 1
      else
         n = n + 1
      end
   end
   return n
end

local function live(j)
   return j.job_state == 0 or j.job_state == 1 or j.job_state == 2   -- pending, running, suspended
end

function slurm_job_submit(job, part_list, uid)
   local cpus = job.min_cpus or 1
   if cpus >= 4294967294 then cpus = 1 end
   local tasks = job.num_tasks or 1
   if tasks >= 4294967294 then tasks = 1 end
   local per = job.cpus_per_task or 1
   if per >= 65534 then per = 1 end
   if tasks * per > cpus then cpus = tasks * per end
   if cpus > MAX_CPUS then
      slurm.log_user("limit: %d CPUs asked, %d allowed for a job", cpus, MAX_CPUS)
      return slurm.ERROR
   end
   local jobs, mem = 0, 0
   for id, j in pairs(slurm.jobs) do
      if j.user_id == uid and live(j) then
         jobs = jobs + 1
         mem = mem + (gres_count(j.tres_per_node, "gpumem"))
      end
   end
   local mine = 1
   if ARRAY_CAP == 1 then mine = array_size(job.array_inx) end
   if jobs + mine > MAX_JOBS then
      slurm.log_user("limit: %d jobs already in the queue and %d more asked, %d allowed for a user", jobs, mine, MAX_JOBS)
      return slurm.ERROR
   end
   if job_gpumem(job) > MAX_GPUMEM then
      slurm.log_user("limit: %.0f GiB gpumem asked, %.0f GiB allowed for a user", job_gpumem(job) / 1024^3, MAX_GPUMEM / 1024^3)
      return slurm.ERROR
   end
   return slurm.SUCCESS
end

function slurm_job_modify(job, rec, part_list, uid)
   return slurm.SUCCESS
end

return slurm.SUCCESS
